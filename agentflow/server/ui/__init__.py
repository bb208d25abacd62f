"""The pages: one module per noun. They work without JavaScript; the modules in `static` make them live."""
