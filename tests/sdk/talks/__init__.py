"""A conversation as an application holds it with one SDK: its own objects are kept and handed back as they are."""
