"""The template store: content-addressed, versioned, activated in one step, proven before it is used."""

from runtime.store.store import Store as Store
