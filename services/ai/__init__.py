"""JPEG -> decode -> letterbox -> model -> boxes -> answer"""
