"""Six dialects, each as a client's and as a provider's: what is asked, what is answered, and how both are read here.

Nothing in this package is of the engine: grammars and readings are written down a second time, from the dialects'
own documents, so that a mistake in a format file is not checked against itself.
"""
