"""What talks to a running host from outside: subscribers, raisers of triggers, and who asks for a change."""
