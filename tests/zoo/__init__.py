"""What do known violations look like, and what is the least change that makes each legal?"""
