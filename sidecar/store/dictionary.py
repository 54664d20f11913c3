"""What the JSON of jobs has in common, so that a single job can be compressed well.

Cells of existing files depend on these dictionaries: they must never change. To improve them, add another one under a
new number in :mod:`sidecar.store.packing`, which keeps reading the cells of the old ones.
"""

from __future__ import annotations

from pathlib import Path

_JOBSPEC = (
    b'{"resources":[{"type":"node","count":1,"exclusive":true,"with":[{"type":"slot","count":1,"with":[{"type":"core",'
    b'"count":1},{"type":"gpu","count":1}],"label":"task"}]}],"attributes":{"user":{"flux-sidecar":{"submitter":"",'
    b'"key":"","request":""}},"system":{"queue":"","dependencies":[{"scheme":"afterok","value":"'
    b'{"version":1,"resources":[{"type":"slot","count":1,"label":"task","with":[{"type":"core","count":1}]}],"tasks":[{'
    b'"command":["/bin/sh","-c",""],"slot":"task","count":{"per_slot":1,"total":1}}],"attributes":{"system":{'
    b'"duration":0,"cwd":"/","job":{"name":""}}}}'
    b'{"resources":[{"type":"slot","count":1,"with":[{"type":"core","count":1}],"label":"task"}],"tasks":[{"command":["'
    b'"],"slot":"task","count":{"per_slot":1}}],"attributes":{"system":{"duration":0,"cwd":"/home/","shell":{"options":'
    b'{"rlimit":{"cpu":-1,"fsize":-1,"data":-1,"stack":8388608,"core":0,"nofile":1048576,"as":-1,"rss":-1,"nproc":-1}}}'
    b',"job":{"name":"","begin-time":}}},"version":1}'
)
_EVENTS = (
    b'[{"timestamp":17,"name":"exception","context":{"type":"cancel","severity":0,"note":"","userid":0},"state":'
    b'"CLEANUP"},{"timestamp":17,"name":"finish","context":{"status":256},"state":"CLEANUP"},{"timestamp":17,"name":'
    b'"clean","state":"INACTIVE","result":"CANCELED","returncode":-128}]"result":"FAILED","returncode":1}]"result":'
    b'"TIMEOUT","returncode":142}]{"timestamp":17,"name":"urgency","context":{"urgency":0,"userid":0},"state":"SCHED"}'
    b'{"timestamp":17,"name":"jobspec-update","context":{"attributes.system.duration":}}{"timestamp":17,"name":"memo",'
    b'"context":{"}}"name":"dependency-add","context":{"description":"after-success="name":"dependency-remove","context"'
    b'[{"timestamp":17,"name":"submit","context":{"userid":0,"urgency":16,"flags":0,"version":1},"state":"NEW"},{'
    b'"timestamp":17,"name":"validate","state":"DEPEND"},{"timestamp":17,"name":"depend","state":"PRIORITY"},{'
    b'"timestamp":17,"name":"priority","context":{"priority":16},"state":"SCHED"},{"timestamp":17,"name":"alloc",'
    b'"context":{"annotations":{"sched":{"resource_summary":"rank0/core0"}}},"state":"RUN"},{"timestamp":17,"name":'
    b'"start","state":"RUN"},{"timestamp":17,"name":"finish","context":{"status":0},"state":"CLEANUP"},{"timestamp":17,'
    b'"name":"release","context":{"ranks":"all","final":true},"state":"CLEANUP"},{"timestamp":17,"name":"free","state":'
    b'"CLEANUP"},{"timestamp":17,"name":"clean","state":"INACTIVE","result":"COMPLETED","returncode":0}]'
)
_JOB = (
    b'"state":"SCHED","result":"","returncode":"","waitstatus":"","name":""exception":{"occurred":"","severity":"",'
    b'"type":"","note":""},"runtime":0.0}"state":"RUN","result":"","returncode":"","waitstatus":"","name":"'
    b'"state":"INACTIVE","result":"CANCELED","returncode":-128,"waitstatus":"","success":false,"name":"'
    b'"state":"INACTIVE","result":"FAILED","returncode":1,"waitstatus":256,"success":false,"name":"'
    b'"ntasks":1,"ncores":1,"nnodes":"","ranks":"","nodelist":"","duration":0.0,"expiration":"","t_submit":17'
    b'"exception":{"occurred":true,"severity":0,"type":"cancel","note":""},"exception_occurred":true,'
    b'"exception_severity":0,"exception_type":"cancel","exception_note":"","runtime":0.0}'
    b'{"id":1,"f58id":"\xc6\x92","userid":0,"username":"root","submitter":"","urgency":16,"priority":16,"state":'
    b'"INACTIVE","result":"COMPLETED","returncode":0,"waitstatus":0,"success":true,"name":"","command":["/bin/"],"cwd":'
    b'"/","queue":"","ntasks":1,"ncores":1,"nnodes":1,"ranks":"0","nodelist":"","duration":0.0,"expiration":0.0,'
    b'"t_submit":17,"t_depend":17,"t_priority":17,"t_sched":17,"t_run":17,"t_cleanup":17,"t_inactive":17,'
    b'"annotations":{"sched":{"resource_summary":"rank0/core0"}},"exception":{"occurred":false,"severity":"","type":"",'
    b'"note":""},"exception_occurred":false,"runtime":0.'
)
FIRST = _JOBSPEC + _EVENTS + _JOB
"""Dictionary 1: only a text. Earlier servers used it."""
SECOND = Path(__file__).with_name("jobs.zdict").read_bytes()
"""Dictionary 2: trained, with tables of frequencies, which a frame then does not need.

It makes a job's document a quarter smaller than the text does, and takes less than half of the time to write and to
read. ``tests/support/train_dictionary.py`` has made it.
"""
TAILS = (
    b',"name":"validate","state":"DEPEND"}',
    b',"name":"depend","state":"PRIORITY"}',
    b',"name":"priority","context":{"priority":16},"state":"SCHED"}',
    b',"name":"priority","context":{"priority":0},"state":"SCHED"}',
    b',"name":"start","state":"RUN"}',
    b',"name":"finish","context":{"status":0},"state":"CLEANUP"}',
    b',"name":"finish","context":{"status":256},"state":"CLEANUP"}',
    b',"name":"release","context":{"ranks":"all","final":true},"state":"CLEANUP"}',
    b',"name":"free","state":"CLEANUP"}',
    b',"name":"clean","state":"INACTIVE","result":"COMPLETED","returncode":0}',
    b',"name":"clean","state":"INACTIVE","result":"FAILED","returncode":1}',
    b',"name":"clean","state":"INACTIVE","result":"CANCELED","returncode":-128}',
)
"""Eventlog entries without their times, by their number in records of entries."""
