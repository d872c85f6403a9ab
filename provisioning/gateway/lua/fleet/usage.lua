-- What each developer used today, kept over a restart, and whether it is within the limits.

local cjson = require("cjson.safe").new()
local files = require "fleet.files"
local settings = require "fleet.settings"

local concat, floor = table.concat, math.floor
local _M = {}

local DAY_S = 86400
local WRITE_S = 5
local MAX_FILE_BYTES = 8 * 1024 * 1024
local FORMAT = 1

local dict = ngx.shared.fleet_usage
local path
local last_written

-- Days are those of UTC, counted from 1970.
function _M.day(now_s)
  return floor(now_s / DAY_S)
end

local function key(day, developer, what)
  return concat({ day, what, developer })
end

local TOKENS, REQUESTS = "t", "r"

local function of(day, developer)
  return dict:get(key(day, developer, TOKENS)) or 0, dict:get(key(day, developer, REQUESTS)) or 0
end

function _M.add(developer, tokens)
  local day = _M.day(ngx.time())
  dict:incr(key(day, developer, REQUESTS), 1, 0, 2 * DAY_S)
  if tokens > 0 then
    dict:incr(key(day, developer, TOKENS), tokens, 0, 2 * DAY_S)
  end
end

-- Seconds until the developer may send requests again, or nil: at once.
function _M.wait_s(developer, limits)
  local now_s = ngx.time()
  local tokens, requests = of(_M.day(now_s), developer)
  local max_tokens, max_requests = limits.tokens_per_day, limits.requests_per_day
  if (max_tokens and tokens >= max_tokens) or (max_requests and requests >= max_requests) then
    return DAY_S - now_s % DAY_S
  end
  return nil
end

local function today()
  local day, developers = _M.day(ngx.time()), {}
  for _, name in ipairs(dict:get_keys(0)) do
    local of_day, developer = name:match("^(%d+)[rt](.+)$")
    if tonumber(of_day) == day and not developers[developer] then
      local tokens, requests = of(day, developer)
      developers[developer] = { tokens = tokens, requests = requests }
    end
  end
  return { format = FORMAT, day = os.date("!%Y-%m-%d", day * DAY_S), developers = developers }
end

local function encoded()
  return cjson.encode(today()) .. "\n"
end

local function write()
  local body = encoded()
  if body == last_written then
    return
  end
  local is_written, fault = files.write_whole(path, body)
  if is_written then
    last_written = body
  else
    ngx.log(ngx.ERR, "cannot write usage file=", path, " error=", fault)
  end
end

local function restore()
  local body = files.read(path, MAX_FILE_BYTES)
  local saved = body and cjson.decode(body)
  if type(saved) ~= "table" or saved.format ~= FORMAT or type(saved.developers) ~= "table" then
    return
  end
  local day = _M.day(ngx.time())
  if saved.day ~= os.date("!%Y-%m-%d", day * DAY_S) then
    return
  end
  -- What is there already is newer: this worker follows a killed one, or a reload.
  for developer, used in pairs(saved.developers) do
    dict:safe_add(key(day, developer, TOKENS), tonumber(used.tokens) or 0, 2 * DAY_S)
    dict:safe_add(key(day, developer, REQUESTS), tonumber(used.requests) or 0, 2 * DAY_S)
  end
end

function _M.start()
  path = settings.nginx.state_dir .. "/usage.json"
  restore()
  if ngx.worker.id() == 0 then
    ngx.timer.every(WRITE_S, write)
  end
end

-- Content of `/usage` on the ops listener.
function _M.serve()
  ngx.header["Content-Type"] = "application/json"
  ngx.print(encoded())
end

return _M
