-- Tokens by developer and day.
local _M = {}

function _M.start() end

return _M
