-- What a client asks for: the endpoint, the model, and what it may not ask for.
local cjson = require "cjson.safe"
local answer = require "fleet.answer"
local faults = require "fleet.faults"
local keys = require "fleet.keys"
local metrics = require "fleet.metrics"
local router = require "fleet.router"
local settings = require "fleet.settings"
local upstreams = require "fleet.upstreams"

cjson.decode_max_depth(100)
cjson.decode_invalid_numbers(false)

local _M = {}

-- Streams: whether answers stream where the request does not say.
local ENDPOINTS = {
  ["/"] = { method = "GET" },
  ["/api/generate"] = { method = "POST", streams = true },
  ["/api/chat"] = { method = "POST", streams = true },
  ["/api/embed"] = { method = "POST" },
  ["/api/embeddings"] = { method = "POST" },
  ["/api/show"] = { method = "POST" },
  ["/api/tags"] = { method = "GET" },
  ["/api/ps"] = { method = "GET" },
  ["/api/version"] = { method = "GET" },
  ["/v1/chat/completions"] = { method = "POST", counts_streams = true },
  ["/v1/completions"] = { method = "POST", counts_streams = true },
  ["/v1/embeddings"] = { method = "POST" },
  ["/v1/models"] = { method = "GET" },
}
local CHANGES = {
  ["/api/pull"] = true, ["/api/delete"] = true, ["/api/create"] = true, ["/api/copy"] = true,
  ["/api/push"] = true,
}
local TYPES = { [400] = "invalid_request_error", [401] = "authentication_error",
  [403] = "permission_error", [404] = "not_found_error", [413] = "invalid_request_error",
  [429] = "rate_limit_error" }
local REASONS = { [400] = "bad_request", [413] = "too_large", [429] = "fleet_full" }
local TEXTS = {
  [400] = "the gateway cannot read the request",
  [408] = "the request did not arrive in time",
  [413] = "the request is larger than the gateway allows",
  [429] = "all instances are busy, try again later",
  [502] = "no instance could be reached",
  [504] = "the instance did not answer in time",
}

-- Returns an error as the API that was asked gives it.
local function error_body(status, message)
  if ngx.var.uri:sub(1, 4) == "/v1/" then
    local kind = TYPES[status] or "api_error"
    return cjson.encode({ error = { message = message, type = kind, code = status } }) .. "\n"
  end
  return cjson.encode({ error = message }) .. "\n"
end

local function say(status, body, content_type)
  ngx.ctx.is_ours = true
  ngx.status = status
  ngx.header["Content-Type"] = content_type or "application/json"
  ngx.header["Content-Length"] = #body
  ngx.print(body)
  return ngx.exit(ngx.HTTP_OK)
end

-- Refuses a request; the reason is one of the series' reasons.
function _M.refuse(status, reason, message, retry_after)
  metrics.reject(reason)
  ngx.header["Retry-After"] = retry_after
  return say(status, error_body(status, message))
end
local refuse = _M.refuse

local function read_body()
  ngx.req.read_body()
  local body = ngx.req.get_body_data()
  local path = not body and ngx.req.get_body_file()
  if path then
    local file = assert(io.open(path, "rb"))
    body = file:read("*a")
    file:close()
  end
  return body
end

-- Returns the seconds that a `keep_alive` asks for; huge: for ever; nil: nobody understands it.
local function keep_alive_s(value)
  if type(value) == "number" then
    return value < 0 and math.huge or value
  end
  local units = { ns = 1e-9, us = 1e-6, ["µs"] = 1e-6, ms = 1e-3, s = 1, m = 60, h = 3600 }
  local text = type(value) == "string" and value or "?"
  if text:sub(1, 1) == "-" then
    return math.huge
  elseif text == "0" then
    return 0
  end
  local total, rest = 0, text
  while rest ~= "" do
    local number, unit, after = rest:match("^%+?(%d*%.?%d*)([^%d.]+)(.*)$")
    if not number or not tonumber(number) or not units[unit] then
      return nil
    end
    total, rest = total + tonumber(number) * units[unit], after
  end
  return total
end

-- Go's servers take `Keep_Alive` for `keep_alive`, and the last one counts.
local function lowest_keep_alive(request)
  local lowest
  for name, value in pairs(request) do
    if type(name) == "string" and name:lower() == "keep_alive" and value ~= cjson.null then
      lowest = math.min(lowest or math.huge, keep_alive_s(value) or 0)
    end
  end
  return lowest
end

-- Returns the field that a request gets so that its model stays, or nil.
local function pinning(request)
  local minimum = settings.keep_alive.minimum
  local asked_s = lowest_keep_alive(request)
  if type(minimum) ~= "number" or not asked_s then
    return
  end
  if asked_s >= (minimum < 0 and math.huge or minimum) then
    return
  elseif settings.keep_alive.below == "refuse" then
    return refuse(403, "forbidden", "keep_alive is shorter than the operator allows")
  end
  return '"keep_alive":' .. (minimum < 0 and "-1" or ('"%ds"'):format(math.ceil(minimum)))
end

-- Returns the field with which OpenAI's servers say how many tokens a stream had, or nil.
local function counting(ctx, request, endpoint)
  local options = request.stream_options
  local is_counted = type(options) == "table" and options.include_usage == true
  if settings.requests.count_streams and endpoint.counts_streams and ctx.stream and not is_counted then
    return '"stream_options":{"include_usage":true}'
  end
end

-- Adds fields at a body's end, where they win over earlier ones. It is not encoded anew, which
-- would change empty lists and large numbers.
local function append(body, ...)
  local fields = {}
  for index = 1, select("#", ...) do
    fields[#fields + 1] = (select(index, ...))
  end
  if #fields > 0 then
    ngx.req.set_body_data(body:match("^(.*)}%s*$") .. "," .. table.concat(fields, ",") .. "}")
  end
end

local function read_request(ctx, endpoint)
  local body = read_body()
  local request = body and cjson.decode(body)
  if type(request) ~= "table" then
    return refuse(400, "bad_request", "the body is not a JSON object")
  end
  local model = request.model or (ctx.endpoint == "/api/show" and request.name)
  if type(model) ~= "string" or model == "" then
    return refuse(400, "bad_request", "model is required")
  end
  ctx.stream = request.stream == nil and endpoint.streams or request.stream == true
  local canonical = router.canonical(model)
  if not canonical then
    return refuse(404, "model_unknown", ("model '%s' not found"):format(model:sub(1, 256)))
  end
  ctx.model = canonical
  append(body, pinning(request), counting(ctx, request, endpoint))
end

local function union(names, shape)
  local models = {}
  for _, name in ipairs(names) do
    models[#models + 1] = shape(name)
  end
  return #models > 0 and cjson.encode(models) or "[]"
end

local function ollama_model(name)
  return { name = name, model = name, size = 0, digest = "", modified_at = "1970-01-01T00:00:00Z",
    details = { format = "", family = "", parameter_size = "", quantization_level = "" } }
end

local function openai_model(name)
  return { id = name, object = "model", created = 0, owned_by = "library" }
end

local function loaded_names(current)
  local names = {}
  for index, name in ipairs(current.models or {}) do
    if current.loaded[index - 1] then
      names[#names + 1] = name
    end
  end
  return names
end

-- What the gateway answers itself.
local LOCAL = {
  ["/"] = function() return "Ollama is running", "text/plain; charset=utf-8" end,
  ["/api/tags"] = function(current)
    return '{"models":' .. union(current.models or {}, ollama_model) .. "}\n"
  end,
  ["/api/ps"] = function(current)
    return '{"models":' .. union(loaded_names(current), ollama_model) .. "}\n"
  end,
  ["/v1/models"] = function(current)
    return '{"object":"list","data":' .. union(current.models or {}, openai_model) .. "}\n"
  end,
}

local function check_endpoint(uri, endpoint)
  if CHANGES[uri] or uri:sub(1, 11) == "/api/blobs/" then
    return refuse(403, "forbidden", "the gateway does not let clients change servers")
  elseif not endpoint then
    return refuse(404, "bad_request", "the gateway has no " .. uri:sub(1, 100))
  elseif ngx.req.get_method() ~= endpoint.method
    and not (endpoint.method == "GET" and ngx.req.get_method() == "HEAD") then
    ngx.header["Allow"] = endpoint.method
    return refuse(405, "bad_request", "the method must be " .. endpoint.method)
  end
end

function _M.access()
  local ctx, uri = ngx.ctx, ngx.var.uri
  local endpoint = ENDPOINTS[uri]
  ctx.endpoint, ctx.model, ctx.stream = endpoint and uri or "other", "other", false
  ctx.arrived, ctx.tries = ngx.now(), 0
  check_endpoint(uri, endpoint)
  keys.authenticate()
  if upstreams.current().n == 0 then
    return refuse(503, "fleet_full", "the gateway has no list of instances yet", 1)
  elseif LOCAL[uri] then
    local body, content_type = LOCAL[uri](upstreams.current())
    return say(200, body, content_type)
  elseif endpoint.method == "POST" then
    read_request(ctx, endpoint)
  else
    ctx.any = true
  end
  local instance, wait_s = router.admit(ctx)
  if not instance then
    return refuse(429, "fleet_full", TEXTS[429], router.retry_after(wait_s))
  end
end

-- Puts our words into answers that nginx made: their bodies are HTML.
local function explain(ctx)
  local failure = ctx.failure or { status = ngx.status }
  ngx.status = failure.status
  if REASONS[failure.status] then
    metrics.reject(REASONS[failure.status])
  end
  ctx.replacement = error_body(failure.status, TEXTS[failure.status] or "the gateway failed")
  ngx.header["Retry-After"] = failure.retry_after
  ngx.header["Content-Type"] = "application/json"
  ngx.header["Content-Length"] = #ctx.replacement
end

local function is_of_instance()
  local times = ngx.var.upstream_header_time
  return times and times:find("%d%s*$")
end

function _M.header_filter()
  local ctx = ngx.ctx
  if ngx.req.http_version() == 0.9 then
    return ngx.exit(ngx.ERROR) -- so nginx calls an answer that is no HTTP, and would pass it on
  elseif ngx.status >= 400 and not ctx.is_ours and (ctx.failure or not is_of_instance()) then
    explain(ctx)
  elseif ctx.holds then
    answer.on_header()
  end
end

function _M.body_filter()
  local ctx = ngx.ctx
  if ctx.replacement then
    ngx.arg[1] = ctx.replacement ~= true and ctx.replacement or nil
    ngx.arg[2] = true
    ctx.replacement = true
  elseif ctx.holds then
    answer.on_body()
  end
end

function _M.log()
  router.finish(ngx.ctx)
  metrics.finish()
end

for _, phase in ipairs({ "access", "header_filter", "body_filter", "log" }) do
  _M[phase] = faults.logged(_M[phase])
end

return _M
