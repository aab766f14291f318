"""The commands: northstar, nstar, sextant."""
