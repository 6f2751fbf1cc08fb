"""Whole screens, made of widgets; each shows the View that the app hands it."""
