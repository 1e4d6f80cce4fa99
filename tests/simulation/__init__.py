"""The simulation: real tasks, agents, engine and sink over a simulated Kafka, in virtual time, from one seed.

Everything that a worker runs is the product's own code, down to the requests of a transaction; only what lies beneath
is played: aiokafka's two clients, the brokers, the disks, the processes and time. Reading order:

    loop.py        virtual time; processes that die and freeze between any two steps
    network.py     calls that are late, lost before or after they took effect, repeated
    cluster.py     partitions, transactions, markers, committed offsets, compaction
    group.py       the coordinator of consumer groups
    clients.py     aiokafka's consumer, reader and producer as `streams/` sees them
    disk.py        stores whose families lose their tails apart
    machine.py     a worker: the real engine on a disk, in a process
    sink.py        a destination and a source for the real pump
    plan.py        a seed -> what is produced and what goes wrong
    toy.py, orders.py   two topologies: what is produced, and an independent model of what must come of it
    readers.py     clients that read through whoever believes to be the owner
    judge.py       the log, the tables, the readers and the sink held to the model
    history.py     one history: run, heal, judge
    shrink.py      a failing plan -> a smaller one that still fails
    mutants.py     deliberately broken engines, each of which must be caught
"""
