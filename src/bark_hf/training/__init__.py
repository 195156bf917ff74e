"""Training of Bark's stages, codec and semantic units with the stock tools: datasets, Trainer, accelerate, peft."""
