"""HTTP mechanics: listeners, connections, middleware, routing, decoding, streaming, problems."""
