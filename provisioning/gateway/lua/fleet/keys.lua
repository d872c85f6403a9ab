-- API keys of developers.
local _M = {}

function _M.start() end

-- Sets ngx.ctx.developer, or answers.
function _M.authenticate() end

return _M
