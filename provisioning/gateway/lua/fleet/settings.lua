-- The settings that `ollama-fleet gateway render` wrote, read once when nginx starts or reloads.
local cjson = require "cjson.safe"

local _M = {}

-- Runs in the master, before it forks.
function _M.load(path)
  local file = assert(io.open(path, "rb"))
  local values = assert(cjson.decode(file:read("*a")))
  file:close()
  for name, value in pairs(values) do
    _M[name] = value
  end
  require("fleet.limits").open()
end

return _M
