-- Errors of our own code: logged without the request line, which nginx adds to any other error.
local _M = {}

local function log(_, fault)
  ngx.log(ngx.ERR, "error in Lua ", fault)
end

-- The same function, whose errors are logged from a timer and then are nginx's.
function _M.logged(phase)
  return function()
    local is_good, fault = xpcall(phase, debug.traceback)
    if not is_good then
      ngx.timer.at(0, log, fault)
      error("see the error in Lua", 0)
    end
  end
end

return _M
