"""A language model as a static web page: the model's operators as JavaScript, products as WebAssembly, weights as integers."""
