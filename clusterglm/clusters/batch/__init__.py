"""What all batch systems share: jobs and their tags, the scripts of a cluster's jobs, its run folder, a site's habits.

A cluster is one job for the scheduler and one throttled array of jobs for the workers. Nothing of clusterglm runs
between two commands: the queue itself says what there is.
"""
