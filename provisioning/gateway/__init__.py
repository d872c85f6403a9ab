"""The gateway: nginx with its Lua module chooses an instance for each request."""
