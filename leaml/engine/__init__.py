"""Engines: what turns an image and a request into text."""
