"""What others need of a checkpoint: a config that stays readable (`schema`), a card, and pushes that are whole.

Imports nothing: `configuration_cdp` needs `schema`, and the other modules need the policy.
"""
