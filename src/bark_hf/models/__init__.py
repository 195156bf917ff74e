"""The models that this package contains: `bundled` loads them; each is a folder like any checkpoint's."""
