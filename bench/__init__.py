"""The benchmark: what the server reaches, beside what Flux or aiohttp alone reach on the same machine."""
