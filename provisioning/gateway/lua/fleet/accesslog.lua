-- What the access log says of a request besides nginx's own fields: everything but the prompt.

local buffer = require "string.buffer"
local cjson = require("cjson.safe").new()

local byte, floor, sub = string.byte, math.floor, string.sub
local MAX_BYTES = 200
local QUOTE, BACKSLASH = byte('"'), byte("\\")

local _M = {}

local line = buffer.new()

local function is_plain(value)
  for index = 1, #value do
    local char = byte(value, index)
    if char < 32 or char > 126 or char == QUOTE or char == BACKSLASH then
      return false
    end
  end
  return true
end

local function text(name, value)
  if not value then
    return
  end
  if #value > MAX_BYTES then
    value = sub(value, 1, MAX_BYTES)
  end
  if is_plain(value) then
    line:put(',"', name, '":"', value, '"')
  else
    line:put(',"', name, '":', cjson.encode(value))
  end
end

local function number(name, value)
  if value then
    line:put(',"', name, '":', value)
  end
end

local function seconds(name, value)
  number(name, value and floor(value * 1000 + 0.5) / 1000)
end

-- Sets the variable that ends the log's format. Its texts are the fleet's own, and bounded.
function _M.write(ctx, outcome)
  line:reset()
  text("developer", ctx.developer)
  text("endpoint", ctx.endpoint)
  text("model", ctx.model)
  local instance = ctx.instance
  if instance then
    text("instance", instance.id)
    text("node", instance.node)
  end
  number("outcome", outcome.status)
  number("tries", ctx.tries)
  text("rejected", ctx.rejected)
  text("fault", outcome.fault)
  seconds("queue_s", outcome.queue_s)
  seconds("first_token_s", outcome.first_token_s)
  local figures = outcome.figures
  if figures then
    number("prompt_tokens", figures.prompt_tokens)
    number("generated_tokens", figures.generated_tokens)
    seconds("generation_s", figures.generation_s)
    seconds("load_s", figures.load_s)
    text("done_reason", figures.done_reason)
  end
  ngx.var.fleet_log = line:tostring()
end

return _M
