"""The product in surroundings that are not the developer's: locales, folders, proxies, users."""
