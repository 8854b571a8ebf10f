"""Adapter and prompt to text: base models, tokenizers and the engines that generate. Every other package may use it."""
