"""Run the command as `python -m ollama_fleet`."""

from ollama_fleet import main

main()
