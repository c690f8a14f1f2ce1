"""What goes to the Hub.

push          the end of a training: policy, processors and card in one commit
card          the model card
evaluation    what lerobot-eval left behind
bundle        the folder of what `python -m lerobot_cdp.publish` sends
"""
