/*
 * small_pools.c: make nng start few threads.
 *
 * nng sizes its thread pools by the number of processors. On a small machine its task threads then
 * fight for every message: with pools for one processor a round trip takes 19 µs instead of 27, and
 * 31 instead of 51 where the processors are far apart. There is no call for it in the nng we use,
 * so this file answers the question that nng asks. On more than four processors the true number
 * goes through.
 *
 * An executable has it compiled in, or has not: it is in no library. Everything else in the process
 * that asks sysconf() for the processors gets the same answer; sched_getaffinity() tells the truth.
 */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <unistd.h>

enum {
    SMALL_MACHINE_PROCESSORS_MAX = 4
};

typedef long sysconf_fn(int name);

/* Sanitizers ask, too, before they are ready to watch anybody. */
__attribute__((visibility("default"), no_sanitize("address", "thread", "undefined"))) long
sysconf(int name)
{
    static _Atomic(sysconf_fn *) real;

    sysconf_fn *call = atomic_load_explicit(&real, memory_order_relaxed);
    if (call == NULL) {
        call = (sysconf_fn *)dlsym(RTLD_NEXT, "sysconf");
        if (call == NULL) return -1;
        atomic_store_explicit(&real, call, memory_order_relaxed);
    }
    long value = call(name);
    bool is_small = value > 0 && value <= SMALL_MACHINE_PROCESSORS_MAX;
    return name == _SC_NPROCESSORS_ONLN && is_small ? 1 : value;
}
