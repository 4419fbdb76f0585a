/*
 * common/gate.h: keep the transport's threads out of what is being taken down.
 *
 * Who wants to hand something in goes through the gate; whoever takes things down closes it, and
 * knows afterwards that nobody is inside and nobody will come.
 *
 * Thread: any. Blocking: close waits for those inside, who are few and quick.
 */
#ifndef SRV_COMMON_GATE_H
#define SRV_COMMON_GATE_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

struct srv_gate {
    atomic_uint inside;
    atomic_bool closed;
};

/* Entering writes `inside` and reads `closed`, closing the other way round: with sequential
 * consistency one of them sees the other. */
static inline bool
srv_gate_enter(struct srv_gate *gate)
{
    atomic_fetch_add(&gate->inside, 1);
    if (!atomic_load(&gate->closed)) return true;
    atomic_fetch_sub(&gate->inside, 1);
    return false;
}

static inline void
srv_gate_leave(struct srv_gate *gate)
{
    atomic_fetch_sub(&gate->inside, 1);
}

static inline void
srv_gate_close(struct srv_gate *gate)
{
    atomic_store(&gate->closed, true);
    while (atomic_load(&gate->inside) > 0)
        sched_yield();
}

#endif /* SRV_COMMON_GATE_H */
