-- The gateway's series: counted per worker, added to the shared dictionary each second, and served.

local ffi = require "ffi"
local answer = require "fleet.answer"
local accesslog = require "fleet.accesslog"
local settings = require "fleet.settings"
local usage = require "fleet.usage"

local concat, format = table.concat, string.format
local _M = {}

local FLUSH_S = 1
-- Others run in between: this many cells or lines are a fraction of a millisecond.
local N_AT_ONCE = 300
local PAUSE_S = 0.001
local OTHER = "other"
local PREFIX = "ollama_gateway_"

local BOUNDARIES_S = {
  0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120,
}
local N_BUCKETS = #BOUNDARIES_S + 1
local CODES = {
  "200", "400", "401", "403", "404", "405", "408", "413", "422", "429", "499", "500", "501", "502",
  "503", "504", "1xx", "2xx", "3xx", "4xx", "5xx",
}
local REJECTED = {
  "fleet_full", "model_unknown", "unauthorised", "over_limit", "forbidden", "too_large", "bad_request",
}

-- Each kind of group has cells: a histogram takes N_BUCKETS + 1, the last one for the sum.
local DURATION, FIRST_TOKEN = 0, N_BUCKETS + 1
local GENERATED = 2 * (N_BUCKETS + 1)
local PROMPT, SECONDS, CODE = GENERATED + 1, GENERATED + 2, GENERATED + 3
local QUEUE, TOKENS, FIRST = 0, 0, 0

local code_cell = {}
for offset, code in ipairs(CODES) do
  code_cell[tonumber(code) or code] = CODE + offset - 1
end
local rejected_cell = {}
for offset, reason in ipairs(REJECTED) do
  rejected_cell[reason] = offset - 1
end

-- What a group is labelled by, how many groups there may be, and its series.
local KINDS = {
  pair = {
    labels = { "model", "node" }, max_groups = 2048, n_cells = CODE + #CODES,
    families = {
      { "request_duration_seconds", "histogram", DURATION,
       "Duration of requests that an instance took, from arrival at the gateway to the last byte." },
      { "time_to_first_token_seconds", "histogram", FIRST_TOKEN,
       "Time from the arrival of a request at the gateway to the first byte of a streamed answer." },
      { "requests_total", "counter", CODE,
       "Requests that an instance took, by status code. 499: the client left. 502: also an answer that broke off.",
       "code", CODES },
      { "generated_tokens_total", "counter", GENERATED,
       "Tokens generated, as the answers report them." },
      { "prompt_tokens_total", "counter", PROMPT,
       "Tokens of prompts, as the answers report them." },
      { "generation_seconds_total", "counter", SECONDS,
       "Time that instances generated tokens, as the answers report it." },
    },
  },
  model = {
    labels = { "model" }, max_groups = 512, n_cells = N_BUCKETS + 1,
    families = {
      { "queue_time_seconds", "histogram", QUEUE,
       "Time that a request waits in the gateway for a free instance." },
    },
  },
  developer = {
    labels = { "developer" }, max_groups = 20000, n_cells = 1,
    families = {
      { "developer_tokens_total", "counter", TOKENS,
       "Tokens of prompts and answers by developer. Those beyond the limit of developers are other." },
    },
  },
  retry = {
    labels = { "reason" }, max_groups = 16, n_cells = 1,
    families = {
      { "retries_total", "counter", FIRST,
       "Tries of a further instance, by what was wrong with the one before." },
    },
  },
  all = {
    labels = {}, max_groups = 1, n_cells = #REJECTED,
    families = {
      { "rejected_total", "counter", FIRST,
       "Requests that the gateway refused. fleet_full: every instance that has the model is at its limit (429). model_unknown: no instance has the model. unauthorised: no valid API key. over_limit: the developer's limit is used up. forbidden: the path or the method is not allowed. too_large: the body is above the limit. bad_request: the body is no valid request.", "reason", REJECTED },
    },
  },
}
-- What the router knows.
local STATUS = {
  { "upstreams", "gauge", "n", "Instances in the upstream list that the gateway uses." },
  { "upstreams_ejected", "gauge", "n_ejected",
    "Instances in the list that get no requests for a while, because they failed." },
  { "upstreams_age_seconds", "gauge", "age_s",
    "Time since the upstream list was last read, or confirmed as unchanged." },
  { "upstreams_refused_total", "counter", "n_refused",
    "Upstream lists that the gateway refused: not valid, too large, or empty while it held instances. It keeps the last good list." },
  { "requests_in_flight", "gauge", "n_in_flight", "Requests that the gateway has not answered yet." },
}
local ORDER = { "pair", "model", "developer", "retry", "all" }

local dict = ngx.shared.fleet_metrics
local groups = {} -- by kind and labels
local changed = {} -- the groups with cells that wait for the next flush

-- Groups

local function is_other(labels)
  return labels:find('"other"', 1, true)
end

-- A group's number is the same in all workers; beyond the limit a group counts as "other".
local function number_of(kind, labels)
  local key = concat({ kind, "#", labels })
  local number = dict:get(key)
  if number then
    return number
  end
  if (dict:get(kind) or 0) >= KINDS[kind].max_groups and not is_other(labels) then
    return nil
  end
  number = dict:incr(kind, 1, 0)
  if not dict:safe_add(key, number) then
    return dict:get(key) -- another worker was faster; its number stays, this one has no labels
  end
  dict:safe_set(concat({ kind, ":", number }), labels)
  return number
end

local function escaped(value)
  return (value:gsub('[\\"\n]', { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }))
end

local function labels_of(kind, values)
  local labels = {}
  for index, name in ipairs(KINDS[kind].labels) do
    labels[index] = format('%s="%s"', name, escaped(values[index]))
  end
  return concat(labels, ",")
end

local function new_group(kind, ...)
  local number = number_of(kind, labels_of(kind, { ... }))
  if not number then
    return nil
  end
  local n_cells = KINDS[kind].n_cells
  return {
    prefix = concat({ kind, number, "/" }), keys = {}, n_cells = n_cells,
    cells = ffi.new("double[?]", n_cells),
  }
end

local function group(kind, first, second)
  local of_kind = groups[kind]
  if not of_kind then
    of_kind = {}
    groups[kind] = of_kind
  end
  local of_first = of_kind[first]
  if not of_first then
    of_first = {}
    of_kind[first] = of_first
  end
  local found = of_first[second]
  if not found then
    found = new_group(kind, first, second) or group(kind, OTHER, OTHER)
    of_first[second] = found
  end
  return found
end

-- The cells of a group, which the next flush looks at.
local function cells_of(kind, first, second)
  local found = group(kind, first, second or "")
  if not found.is_changed then
    found.is_changed = true
    changed[#changed + 1] = found
  end
  return found.cells
end

local function add(cells, cell, value)
  cells[cell] = cells[cell] + value
end

local function observe(cells, first, value)
  local bucket = 0
  while bucket < N_BUCKETS - 1 and value > BOUNDARIES_S[bucket + 1] do
    bucket = bucket + 1
  end
  add(cells, first + bucket, 1)
  add(cells, first + N_BUCKETS, value)
end

-- Flushing

local function flush_group(found, count)
  local cells, keys = found.cells, found.keys
  found.is_changed = false
  for cell = 0, found.n_cells - 1 do
    local value = cells[cell]
    if value ~= 0 then
      cells[cell] = 0
      local key = keys[cell]
      if not key then
        key = found.prefix .. cell
        keys[cell] = key
      end
      dict:incr(key, value, 0)
      count = count + 1
    end
  end
  return count
end

local function flush(is_last)
  local waiting = changed
  changed = {}
  local n, n_paused = 0, 0
  for _, found in ipairs(waiting) do
    n = flush_group(found, n)
    if not is_last and n - n_paused >= N_AT_ONCE then
      n_paused = n
      ngx.sleep(PAUSE_S)
    end
  end
end

local function on_timer(is_ending)
  flush(is_ending)
end

-- Counting

function _M.start()
  cells_of("all", "")
  ngx.timer.every(FLUSH_S, on_timer)
end

function _M.reject(reason)
  ngx.ctx.rejected = reason
  add(cells_of("all", ""), rejected_cell[reason] or rejected_cell.bad_request, 1)
end

function _M.retry(reason)
  add(cells_of("retry", reason), FIRST, 1)
end

local function code_of(status)
  local known = code_cell[status]
  return known or code_cell[format("%dxx", status / 100)] or code_cell["5xx"]
end

-- An answer that broke off, or said so itself, has status 200 all the same.
local function status_of(ctx, status, fault)
  local ending = answer.ending(ctx, status)
  if ending == "client_left" then
    return 499, ending
  end
  if ending == "cut_off" or fault == "error" then
    return 502, ending == "cut_off" and ending or fault
  end
  return status, fault
end

local function count_answer(ctx, outcome)
  local cells = cells_of("pair", ctx.model or OTHER, ctx.instance.node or OTHER)
  observe(cells, DURATION, outcome.duration_s)
  add(cells, code_of(outcome.status), 1)
  if outcome.first_token_s then
    observe(cells, FIRST_TOKEN, outcome.first_token_s)
  end
  local figures = outcome.figures
  if figures then
    add(cells, GENERATED, figures.generated_tokens)
    add(cells, PROMPT, figures.prompt_tokens)
    add(cells, SECONDS, figures.generation_s)
  end
end

local function count_developer(developer, figures)
  local tokens = figures and figures.generated_tokens + figures.prompt_tokens or 0
  add(cells_of("developer", developer), TOKENS, tokens)
  usage.add(developer, tokens)
end

-- What became of a request. Times are those of nginx's clock, which stands still within an event.
local function outcome_of(ctx)
  local arrived = ctx.arrived or ngx.req.start_time()
  local outcome = { status = ngx.status, duration_s = math.max(0, ngx.now() - arrived) }
  if ctx.started then
    outcome.queue_s = math.max(0, ctx.started - arrived)
  end
  if ctx.instance and not ctx.rejected then
    local figures, fault = answer.figures(ctx, outcome.duration_s)
    outcome.figures = figures
    outcome.status, outcome.fault = status_of(ctx, outcome.status, fault)
    if ctx.stream and ctx.first_byte and ctx.is_read then
      outcome.first_token_s = math.max(0, ctx.first_byte - arrived)
    end
  end
  return outcome
end

-- In log, of every request.
function _M.finish()
  local ctx = ngx.ctx
  local outcome = outcome_of(ctx)
  if ctx.instance and not ctx.rejected then
    count_answer(ctx, outcome)
    if ctx.developer then
      count_developer(ctx.developer, outcome.figures)
    end
  end
  if outcome.queue_s then
    observe(cells_of("model", ctx.model or OTHER), QUEUE, outcome.queue_s)
  end
  if settings.log.access_file ~= ngx.null then
    accesslog.write(ctx, outcome)
  end
  if ngx.worker.exiting() then
    flush(true) -- no timer runs in a worker that finishes its last requests
  end
end

-- Serving

local function cell(prefix, index)
  return dict:get(prefix .. index) or 0
end

local function bucket_name(index)
  return BOUNDARIES_S[index] and format("%.15g", BOUNDARIES_S[index]) or "+Inf"
end

local function add_histogram(lines, name, labels, prefix, first)
  local count = 0
  for index = 1, N_BUCKETS do
    count = count + cell(prefix, first + index - 1)
    lines[#lines + 1] =
      format('%s_bucket{%s,le="%s"} %.15g\n', name, labels, bucket_name(index), count)
  end
  lines[#lines + 1] = format("%s_sum{%s} %.15g\n", name, labels, cell(prefix, first + N_BUCKETS))
  lines[#lines + 1] = format("%s_count{%s} %.15g\n", name, labels, count)
end

-- A counter, or one for each value of a further label; a status code that never came is left out.
local function add_counter(lines, name, labels, prefix, family)
  local _, _, first, _, label, values = unpack(family)
  for offset, value in ipairs(values or { false }) do
    local count = cell(prefix, first + offset - 1)
    if count > 0 or label ~= "code" then
      local all = values and format('%s%s="%s"', labels == "" and "" or labels .. ",", label, value)
      lines[#lines + 1] = format("%s{%s} %.15g\n", name, all or labels, count)
    end
  end
end

local function send(lines)
  ngx.print(lines)
  ngx.sleep(PAUSE_S)
end

local function send_family(kind, family)
  local name = PREFIX .. family[1]
  local lines = { format("# HELP %s %s\n# TYPE %s %s\n", name, family[4], name, family[2]) }
  for number = 1, dict:get(kind) or 0 do
    local labels = dict:get(concat({ kind, ":", number }))
    if labels then
      local prefix = concat({ kind, number, "/" })
      if family[2] == "histogram" then
        add_histogram(lines, name, labels, prefix, family[3])
      else
        add_counter(lines, name, labels, prefix, family)
      end
    end
    if #lines >= N_AT_ONCE then
      send(lines)
      lines = {}
    end
  end
  send(lines)
end

local function send_status()
  local status = require("fleet.router").status() -- which needs this module itself
  for _, series in ipairs(STATUS) do
    local name, value = PREFIX .. series[1], status[series[3]]
    if value then
      ngx.print(format("# HELP %s %s\n# TYPE %s %s\n", name, series[4], name, series[2]),
        format("%s %.15g\n", name, value))
    end
  end
end

local function send_build_info()
  local name = PREFIX .. "build_info"
  local help = "Always 1. The label is the version of ollama-fleet that rendered the configuration."
  ngx.print(
    format("# HELP %s %s\n# TYPE %s gauge\n", name, help, name),
    format('%s{version="%s"} 1\n', name, escaped(settings.version or ""))
  )
end

-- Content of `/metrics`: the text format, version 0.0.4.
function _M.serve()
  ngx.header["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
  flush(false) -- what this worker counted is seen at once
  for _, kind in ipairs(ORDER) do
    for _, family in ipairs(KINDS[kind].families) do
      send_family(kind, family)
    end
  end
  send_status()
  send_build_info()
end

return _M
