"""Networks that are deployed already: a file, and the runtime that answers from it; one module per runtime."""
