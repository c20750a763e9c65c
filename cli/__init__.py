"""The command line `lks`: all commands and what they show. It imports every other package; none imports
it.
"""
