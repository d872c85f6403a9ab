-- API keys: whose request this is, and whether today's limits allow it.

local ffi = require "ffi"
local cjson = require("cjson.safe").new()
local files = require "fleet.files"
local all_settings = require "fleet.settings"
local usage = require "fleet.usage"

ffi.cdef "unsigned char *SHA256(const unsigned char *text, size_t size, unsigned char *digest);"

local _M = {}

local READ_S = 2
local MAX_FILE_BYTES = 8 * 1024 * 1024
local MAX_KEY_BYTES = 200
local FORMAT = 1
local DIGEST = ffi.new("unsigned char[32]")

local LAST_GOOD = "keys#last_good"

local shared = ngx.shared.fleet_usage
local settings
local body_read -- of the last good or bad file
local key_by_digest -- nil: no good file was read yet

local function digest_of(key)
  return ffi.string(ffi.C.SHA256(key, #key, DIGEST), 32)
end

local function from_hex(text)
  return (text:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function is_limit(value)
  return value == nil or (type(value) == "number" and value >= 0 and value < 2 ^ 53)
end

local function is_entry(entry)
  return type(entry) == "table"
    and type(entry.developer) == "string"
    and #entry.developer > 0
    and #entry.developer <= 200
    and not entry.developer:find("%c")
    and type(entry.sha256) == "string"
    and #entry.sha256 == 64
    and not entry.sha256:find("%X")
    and is_limit(entry.tokens_per_day)
    and is_limit(entry.requests_per_day)
end

-- The keys of a file by their digests, or nil and what is wrong with it.
local function parsed(body)
  local document = cjson.decode(body)
  if type(document) ~= "table" or document.format ~= FORMAT or type(document.keys) ~= "table" then
    return nil, "it is no JSON object with format " .. FORMAT .. " and keys"
  end
  local found = {}
  for index, entry in ipairs(document.keys) do
    if not is_entry(entry) then
      return nil, "key " .. index .. " is not valid"
    end
    found[from_hex(entry.sha256)] = {
      developer = entry.developer,
      tokens_per_day = entry.tokens_per_day or settings.tokens_per_day,
      requests_per_day = entry.requests_per_day or settings.requests_per_day,
    }
  end
  return found
end

local function without_nulls(section)
  local given = {}
  for name, value in pairs(section) do
    given[name] = value ~= ngx.null and value or nil
  end
  return given
end

-- Reads the file again where it has changed; a bad one is refused, and the last good one stays.
local function refresh()
  local body, fault = files.read(settings.file, MAX_FILE_BYTES)
  local seen = body or fault
  if seen == body_read then
    return
  end
  body_read = seen
  local found
  if body then
    found, fault = parsed(body)
  end
  if found then
    key_by_digest = found
    shared:safe_set(LAST_GOOD, body)
  else
    ngx.log(ngx.ERR, "keys refused file=", settings.file, " error=", fault)
  end
end

-- A worker that starts while the file is broken has the keys of the others.
local function inherit()
  local body = not key_by_digest and shared:get(LAST_GOOD)
  key_by_digest = body and parsed(body) or key_by_digest
end

-- Without a file there is no authentication.
function _M.start()
  settings = without_nulls(all_settings.keys)
  if settings.file then
    refresh()
    inherit()
    ngx.timer.every(READ_S, refresh)
  end
end

local function refuse(status, reason, message, retry_after)
  return require("fleet.request").refuse(status, reason, message, retry_after)
end

local function holder(authorization)
  local scheme, key = (authorization or ""):match("^(%a+) +([!-~]+)$")
  if not scheme or scheme:lower() ~= "bearer" or #key > MAX_KEY_BYTES then
    return nil
  end
  return key_by_digest[digest_of(key)]
end

-- In access, before anything else: names the developer, or answers 401, 429 or 503.
function _M.authenticate()
  if not settings.file then
    return
  end
  if not key_by_digest then
    return refuse(503, "unauthorised", "the gateway cannot read its keys")
  end
  local key = holder(ngx.var.http_authorization)
  if not key then
    ngx.header["WWW-Authenticate"] = "Bearer"
    return refuse(401, "unauthorised", "send an API key: Authorization: Bearer KEY")
  end
  ngx.ctx.developer = key.developer
  local wait_s = usage.wait_s(key.developer, key)
  if wait_s then
    return refuse(429, "over_limit", "today's limit is used up; days begin at midnight UTC", wait_s)
  end
end

return _M
