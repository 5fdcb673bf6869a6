"""The AI service: its steps with exact numbers, its routes on a real process and real pictures."""
