"""The HTTP side: the Litestar app, its routes, and the server that runs it inside this process."""
