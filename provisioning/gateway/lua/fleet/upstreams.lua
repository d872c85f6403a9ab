-- The list of instances: one worker reads it, all workers use it, the last good one is kept.
local cjson = require "cjson.safe"
local ffi = require "ffi"
local limits = require "fleet.limits"
local settings = require "fleet.settings"

local MAX_BYTES, MAX_ROWS = 64 * 1024 * 1024, 200000
local MAX_HEADER_LINES = 100
local SAVE_PERIOD_S = 10

local _M = {}

local shared = ngx.shared.fleet_list
local unsaved
local current = { version = 0, n = 0, pools = {}, by_developer = {} }

-- Reading and checking ----------------------------------------------------------------------

local function read_head(socket)
  local line, err = socket:receive("*l")
  local status = line and tonumber(line:match("^HTTP/1%.[01] (%d%d%d)"))
  if not status then
    return nil, err or "no answer of HTTP"
  end
  local headers = {}
  for _ = 1, MAX_HEADER_LINES do
    line, err = socket:receive("*l")
    if not line or line == "" then
      return line and status, line and headers or err
    end
    local name, value = line:match("^([^:]+):%s*(.-)%s*$")
    if name then
      headers[name:lower()] = value
    end
  end
  return nil, "too many header lines"
end

local function read_body(socket, headers, deadline)
  local length = tonumber(headers["content-length"])
  if not length or length > MAX_BYTES then
    return nil, "no length, or more than 64 MB"
  end
  local parts = {}
  while length > 0 do
    local part, err = socket:receive(math.min(length, 65536))
    if not part then
      return nil, err
    elseif limits.now() > deadline then
      return nil, "timeout"
    end
    parts[#parts + 1] = part
    length = length - #part
  end
  return table.concat(parts)
end

-- Returns the body and its ETag; true where it is as before; or nil and why not.
local function fetch(source, etag)
  local deadline = limits.now() + settings.upstreams.timeout
  local socket = ngx.socket.tcp()
  socket:settimeout(settings.upstreams.timeout * 1000)
  local ok, err = socket:connect(source.host, source.port)
  if not ok then
    return nil, err
  end
  local condition = etag and ("If-None-Match: %s\r\n"):format(etag) or ""
  -- HTTP/1.0, so that no answer comes in chunks.
  socket:send(("GET %s HTTP/1.0\r\nHost: %s\r\n%s\r\n"):format(source.path, source.host, condition))
  local status, headers = read_head(socket)
  local body
  if status == 200 then
    body, err = read_body(socket, headers, deadline)
  elseif status == 304 then
    body = true
  else
    err = status and "status " .. status or headers
  end
  socket:close()
  return body, body and headers.etag or err
end

local function is_index(value, n)
  return type(value) == "number" and value >= 0 and value < n and value % 1 == 0
end

local function are_indexes(values, n)
  if type(values) ~= "table" then
    return false
  end
  for _, value in ipairs(values) do
    if not is_index(value, n) then
      return false
    end
  end
  return true
end

local function is_text(value, max)
  return type(value) == "string" and #value <= max
end

local function are_texts(values)
  if type(values) ~= "table" then
    return false
  end
  for _, value in ipairs(values) do
    if not is_text(value, 256) then
      return false
    end
  end
  return true
end

local function is_instance(row, n_models, n_nodes)
  return type(row) == "table" and is_text(row[1], 256) and row[1] ~= ""
    and is_text(row[2], 45) and row[2]:find("^[%x.:]+$")
    and is_index(row[3], 65536) and row[3] > 0 and is_index(row[4], n_nodes)
    and is_text(row[5], 64) and are_indexes(row[6], n_models) and are_indexes(row[7], n_models)
    and is_text(row[8], 256)
end

-- Returns why a list is refused, or nil.
local function fault(list)
  if type(list) ~= "table" or list.format ~= 1 then
    return "it is no list of format 1"
  elseif not are_texts(list.models) or not are_texts(list.nodes)
    or type(list.instances) ~= "table" then
    return "models, nodes or instances are missing"
  elseif #list.instances > MAX_ROWS then
    return "it has more than 200,000 instances"
  elseif #list.instances == 0 and current.n > 0 then
    return "it is empty"
  end
  local seen = {}
  for number, row in ipairs(list.instances) do
    if not is_instance(row, #list.models, #list.nodes) or seen[row[1]] then
      return "instance number " .. number .. " is invalid or listed twice"
    end
    seen[row[1]] = true
  end
end

-- Using ---------------------------------------------------------------------------------------

-- Gives each instance the row in the limits that it had before, or a free one.
local function assign_rows(list)
  local before, used, rows, departed = current.row_by_id or {}, {}, {}, {}
  for number, row in ipairs(list.instances) do
    rows[number] = before[row[1]] or -1
    used[rows[number]] = true
  end
  local listed = {}
  for _, row in ipairs(list.instances) do
    listed[row[1]] = true
  end
  for id, row in pairs(before) do
    -- What is in flight still counts when the instance is listed again.
    if not listed[id] and not limits.is_idle(row) then
      departed[id], used[row] = row, true
    end
  end
  local free = 0
  for number, row in ipairs(rows) do
    if row < 0 then
      while used[free] do
        free = free + 1
      end
      rows[number], used[free] = free, true
    end
  end
  return { rows = rows, departed = departed }
end

local function new_pool(instances, cursor)
  local n = #instances
  local pool = { n = n, rows = ffi.new("int32_t[?]", n), instances = {}, cursor = cursor }
  -- In an order that neither rack nor node decides: neighbours in the list fail together. It is
  -- the same in each worker, as they share the cursor.
  local seed = 12345
  for i = n, 2, -1 do
    seed = (seed * 1103515245 + 12345) % 2147483648
    local j = seed % i + 1
    instances[i], instances[j] = instances[j], instances[i]
  end
  for i, instance in ipairs(instances) do
    pool.rows[i - 1], pool.instances[i - 1] = instance.row, instance
  end
  return pool
end

local function add(lists, key, instance)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  list[#list + 1] = instance
end

local function sort_instances(list, meta)
  local all, loaded, installed, by_developer, row_by_id = {}, {}, {}, {}, {}
  for number, row in ipairs(list.instances) do
    local instance = {
      id = row[1], address = row[2]:find(":") and "[" .. row[2] .. "]" or row[2], port = row[3], node = list.nodes[row[4] + 1],
      engine = row[5], row = meta.rows[number],
    }
    all[number], row_by_id[row[1]] = instance, instance.row
    limits.set(instance.row, settings.limits[row[5]] or settings.limits.default)
    local is_loaded = {}
    for _, model in ipairs(row[6]) do
      add(loaded, model, instance)
      is_loaded[model] = true
      if row[8] ~= "" then
        add(by_developer, row[8] .. "\n" .. list.models[model + 1], instance)
      end
    end
    for _, model in ipairs(row[7]) do
      if not is_loaded[model] then
        add(installed, model, instance)
        if row[8] ~= "" then
          add(by_developer, row[8] .. "\n" .. list.models[model + 1], instance)
        end
      end
    end
  end
  return all, loaded, installed, by_developer, row_by_id
end

local function pools_of(list, loaded, installed)
  local pools = {}
  for index, model in ipairs(list.models) do
    local tiers, cursor = {}, 2 * index % limits.N_CURSORS
    if loaded[index - 1] then
      tiers[1] = new_pool(loaded[index - 1], cursor)
    end
    if installed[index - 1] then
      tiers[#tiers + 1] = new_pool(installed[index - 1], cursor + 1)
    end
    if #tiers > 0 then
      pools[model] = tiers
    end
  end
  return pools
end

local function apply(text, version)
  local head, body = text:match("^([^\n]*)\n(.*)$")
  local meta, list = cjson.decode(head), cjson.decode(body)
  local all, loaded, installed, by_developer, row_by_id = sort_instances(list, meta)
  for id, row in pairs(meta.departed) do
    row_by_id[id] = row
  end
  local developer_pools = {}
  for key, instances in pairs(by_developer) do
    developer_pools[key] = new_pool(instances, 0)
  end
  current = {
    version = version, n = #all, models = list.models, row_by_id = row_by_id,
    pools = pools_of(list, loaded, installed), by_developer = developer_pools,
    loaded = loaded, all = { new_pool(all, 1) },
  }
end

-- Takes over what another worker has read.
local function refresh()
  local version = shared:get("version") or 0
  if version ~= current.version then
    apply(shared:get("list"), version)
  end
end

local function publish(body)
  local list, err = cjson.decode(body)
  local why = list and fault(list) or err
  if why then
    return why
  end
  local meta = assign_rows(list)
  local ok, full = shared:set("list", cjson.encode(meta) .. "\n" .. body)
  if not ok then
    return full
  end
  shared:incr("version", 1, 0)
  refresh()
end

-- Keeping -------------------------------------------------------------------------------------

local function saved_path()
  return settings.nginx.state_dir .. "/upstreams.json"
end

local function save(body)
  if not shared:add("saving", true, SAVE_PERIOD_S) then
    return false
  end
  local path = saved_path()
  local file, err = io.open(path .. ".new", "wb")
  if not file then
    ngx.log(ngx.ERR, "upstream list not saved path=", path, " error=", err)
    return true
  end
  file:write(body)
  file:close()
  os.rename(path .. ".new", path)
  return true
end

local function restore()
  local file = io.open(saved_path(), "rb")
  if file then
    local why = publish(file:read("*a"))
    file:close()
    ngx.log(ngx.WARN, "saved upstream list read path=", saved_path(), " error=", why or "none",
      " instances=", current.n)
  end
end

-- What is wrong is logged once, until something else is wrong.
local function complain(source, why)
  if shared:get("complaint") ~= why then
    shared:set("complaint", why)
    ngx.log(ngx.ERR, "upstream list not used source=", source.url, " error=", why,
      " instances_kept=", current.n)
  end
end

-- Returns why a source gives no list that can be used, or nil.
local function read_from(source)
  local etag = shared:get("source") == source.url and shared:get("etag") or nil
  local body, tag = fetch(source, etag)
  if not body then
    return tag
  end
  local why = body ~= true and publish(body) or nil
  if why then
    shared:incr("refused", 1, 0)
    return why
  end
  shared:set("read_at", limits.now())
  shared:set("source", source.url)
  shared:set("etag", tag or false)
  shared:delete("complaint")
  unsaved = body ~= true and body or unsaved
end

local function read()
  for _, source in ipairs(settings.upstreams.sources) do
    local why = read_from(source)
    if not why then
      break
    end
    complain(source, why)
  end
  if unsaved and save(unsaved) then
    unsaved = nil
  end
end

-- Runs in each worker; one of them reads.
local function tick()
  refresh()
  local upstreams = settings.upstreams
  if shared:add("reading", true, upstreams.timeout * #upstreams.sources + 1) then
    read()
    shared:set("reading", true, upstreams.refresh * 0.9)
  end
end

local function tick_safely(premature)
  if not premature then
    local ok, err = pcall(tick)
    if not ok then
      ngx.log(ngx.ERR, "upstream list not read error=", err)
    end
  end
end

function _M.start()
  if shared:add("restored", true) then
    restore()
  end
  refresh() -- at once: a reloaded worker has requests before its first tick
  ngx.timer.at(0, tick_safely)
  ngx.timer.every(math.min(settings.upstreams.refresh, 0.25), tick_safely)
end

function _M.current()
  if current.n == 0 then
    refresh() -- another worker may have it already
  end
  return current
end

-- For the series: how many instances, the age of the list, refused lists.
function _M.status()
  local read_at = shared:get("read_at")
  return { n = current.n, age_s = read_at and limits.now() - read_at,
    n_refused = shared:get("refused") or 0 }
end

return _M
