"""Recorders of scripted demonstrations: record_so101, record_aloha, record_twin; what they share is in recording."""
