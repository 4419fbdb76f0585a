#include "usage.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include <qbase/clock.h>

static uint64_t
timeval_ns(struct timeval time)
{
    return (uint64_t)time.tv_sec * Q_NS_PER_S + (uint64_t)time.tv_usec * Q_NS_PER_US;
}

/* user, nice, system, irq, softirq of the first line; not idle, iowait, steal. */
static uint64_t
system_ns(void)
{
    uint64_t user;
    uint64_t nice;
    uint64_t system;
    uint64_t irq;
    uint64_t softirq;
    FILE *file = fopen("/proc/stat", "re");
    if (file == NULL) return 0;
    int fields = fscanf(
        file, "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %*u %*u %" SCNu64 " %" SCNu64, &user, &nice,
        &system, &irq, &softirq);
    (void)fclose(file);
    if (fields != 5) return 0;
    uint64_t ticks_per_s = (uint64_t)sysconf(_SC_CLK_TCK);
    return (user + nice + system + irq + softirq) * (Q_NS_PER_S / ticks_per_s);
}

struct usage
usage_now(void)
{
    struct rusage rusage;
    (void)getrusage(RUSAGE_SELF, &rusage);
    return (struct usage){
        .wall_ns = q_clock_monotonic_ns(q_clock_system()),
        .process_ns = timeval_ns(rusage.ru_utime) + timeval_ns(rusage.ru_stime),
        .system_ns = system_ns(),
    };
}

struct usage
usage_since(const struct usage *start)
{
    struct usage now = usage_now();
    return (struct usage){
        .wall_ns = now.wall_ns - start->wall_ns,
        .process_ns = now.process_ns - start->process_ns,
        .system_ns = now.system_ns - start->system_ns,
    };
}

void
usage_add(struct usage *sum, const struct usage *usage)
{
    sum->wall_ns += usage->wall_ns;
    sum->process_ns += usage->process_ns;
    sum->system_ns += usage->system_ns;
}
