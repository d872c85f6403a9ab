-- What an answer says about itself: when its first byte came, and the figures of its last object.

local cjson = require("cjson.safe").new()
cjson.decode_invalid_numbers(false) -- no NaN, no Infinity, no hexadecimal numbers
cjson.decode_max_depth(50)

local byte, sub, concat = string.byte, string.sub, table.concat
local floor = math.floor

local _M = {}

-- Ollama's durations follow a `context` of any length, so the end of the last object is enough.
local TAIL_BYTES = 2048
-- An instance may lie. No request generates faster than this, nor longer than it lasted.
local MAX_TOKENS_PER_S = 10000
local SLACK_S = 1
local TEMPLATE_TOKENS = 100000
local NO_BODY = { [204] = true, [304] = true }

local SSE_END = "data: [DONE]"
local SPACE, QUOTE, BACKSLASH, COMMA = byte(" "), byte('"'), byte("\\"), byte(",")
local OPENING = { [byte("{")] = true, [byte("[")] = true }
local CLOSING = { [byte("}")] = true, [byte("]")] = true }

-- In header_filter: names the instance, and decides whether the body is read.
function _M.on_header()
  local ctx = ngx.ctx
  local instance = ctx.instance
  if not instance then
    return
  end
  local header = ngx.header
  header["X-Fleet-Instance"] = instance.id
  ctx.has_header = true
  ctx.is_read = ngx.status == 200 and not header["Content-Encoding"]
end

local function keep(ctx, chunk)
  local pieces = ctx.pieces
  if not pieces then
    pieces = { n = 0, bytes = 0 }
    ctx.pieces = pieces
  end
  if #chunk > TAIL_BYTES then
    chunk = sub(chunk, -TAIL_BYTES)
  end
  pieces.n = pieces.n + 1
  pieces[pieces.n] = chunk
  pieces.bytes = pieces.bytes + #chunk
  if pieces.bytes > 2 * TAIL_BYTES then
    local tail = sub(concat(pieces, "", 1, pieces.n), -TAIL_BYTES)
    pieces.n, pieces.bytes, pieces[1] = 1, #tail, tail
  end
end

-- In body_filter: passes every piece on as it came, and remembers the end of the body.
function _M.on_body()
  local ctx = ngx.ctx
  if not ctx.instance then
    return
  end
  local arg = ngx.arg
  local chunk = arg[1]
  if arg[2] then
    ctx.is_complete = true
  end
  if chunk ~= "" then
    ctx.first_byte = ctx.first_byte or ngx.now()
    ctx.n_flushes = 0
    if ctx.is_read then
      keep(ctx, chunk)
    end
  elseif not arg[2] then
    ctx.n_flushes = (ctx.n_flushes or 0) + 1
  end
end

-- The index of the quote that opens the string which ends before `index`, or 0: it is not here.
local function opening_quote(text, index)
  while index > 0 do
    if byte(text, index) == QUOTE then
      local before = index - 1
      while before > 0 and byte(text, before) == BACKSLASH do
        before = before - 1
      end
      if before == 0 and index > 1 then
        return 0
      end
      if (index - 1 - before) % 2 == 0 then
        return index
      end
    end
    index = index - 1
  end
  return 0
end

-- The last object of a text, or those of its members that are whole where its beginning is cut off.
-- Read backwards from the last brace: what a string or an inner object says cannot pass for a member.
local function last_members(text)
  local depth, index, cut = 0, #text, nil
  while index > 0 do
    local char = byte(text, index)
    if char == QUOTE then
      index = opening_quote(text, index - 1)
    elseif CLOSING[char] then
      depth = depth + 1
    elseif OPENING[char] then
      depth = depth - 1
      if depth == 0 then
        return sub(text, index)
      end
    elseif char == COMMA and depth == 1 then
      cut = index
    end
    index = index - 1
  end
  return cut and "{" .. sub(text, cut + 1)
end

local function trimmed(text)
  local size = #text
  while size > 0 and byte(text, size) <= SPACE do
    size = size - 1
  end
  return sub(text, 1, size)
end

local function last_object(text)
  text = trimmed(text)
  if sub(text, -#SSE_END) == SSE_END then
    text = trimmed(sub(text, 1, -#SSE_END - 1))
  end
  local members = sub(text, -1) == "}" and last_members(text)
  local object = members and cjson.decode(members)
  return type(object) == "table" and object or nil
end

-- Goes to the log: nothing that an instance made up.
local function word(value)
  return type(value) == "string" and #value <= 32 and not value:find("[^%w_-]") and value or nil
end

local function ollama_figures(object)
  if object.done == false or not (object.total_duration or object.eval_count) then
    return nil
  end
  return {
    prompt_tokens = object.prompt_eval_count or 0, -- a zero is left out
    generated_tokens = object.eval_count or 0,
    generation_s = (tonumber(object.eval_duration) or 0) / 1e9,
    load_s = (tonumber(object.load_duration) or 0) / 1e9,
    done_reason = word(object.done_reason),
  }
end

local function openai_figures(object)
  local usage = type(object.usage) == "table" and object.usage or nil
  local timings = type(object.timings) == "table" and object.timings or nil
  if not usage and not timings then
    return nil
  end
  usage, timings = usage or {}, timings or {}
  return {
    prompt_tokens = usage.prompt_tokens or timings.prompt_n or 0,
    generated_tokens = usage.completion_tokens or timings.predicted_n or 0,
    generation_s = (tonumber(timings.predicted_ms) or 0) / 1e3,
  }
end

local function is_count(value, limit)
  return type(value) == "number" and value >= 0 and value <= limit and value == floor(value)
end

-- A prompt has no more tokens than the request has bytes, besides those of the model's template.
local function is_prompt(tokens)
  return is_count(tokens, TEMPLATE_TOKENS) or is_count(tokens, tonumber(ngx.var.request_length))
end

local function is_plausible(figures, duration_s)
  local longest_s = duration_s + SLACK_S
  local load_s = figures.load_s or 0
  return is_prompt(figures.prompt_tokens)
    and is_count(figures.generated_tokens, longest_s * MAX_TOKENS_PER_S)
    and figures.generation_s >= 0
    and figures.generation_s <= longest_s
    and load_s >= 0
    and load_s <= longest_s
end

-- The figures of a complete answer, or nil, and what is wrong with it: "error" or "implausible".
function _M.figures(ctx, duration_s)
  local pieces = ctx.pieces
  if not pieces or not ctx.is_complete then
    return nil
  end
  local object = last_object(sub(concat(pieces, "", 1, pieces.n), -TAIL_BYTES))
  if not object then
    return nil
  end
  if object.error and object.error ~= cjson.null then
    return nil, "error"
  end
  local figures = ollama_figures(object) or openai_figures(object)
  if figures and not is_plausible(figures, duration_s) then
    return nil, "implausible"
  end
  return figures
end

-- How an answer ended: "complete", "cut_off" by the instance, or "client_left".
-- nginx flushes once when a body begins late, and once when the instance breaks it off.
function _M.ending(ctx, status)
  if status == 499 then
    return "client_left"
  elseif ctx.is_complete or not ctx.has_header then
    return "complete"
  elseif NO_BODY[status] or ngx.req.get_method() == "HEAD" then
    return "complete"
  end
  local is_cut_off = (ctx.n_flushes or 0) > (ctx.first_byte and 0 or 1)
  return is_cut_off and "cut_off" or "client_left"
end

return _M
