-- What an instance's answer says: tokens, durations, the first byte.
local _M = {}

function _M.on_header() end

function _M.on_body() end

return _M
