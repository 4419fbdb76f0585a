/*
 * delay_work.c: workloads of a delay store.
 */
#include <stdlib.h>

#include <qbase/assert.h>

#include "delay_client.h"

enum {
    SMALL = 64 * 1024,
    LARGE = 4 * 1024 * 1024
};

/* clang-format off */
static const struct delay_plan plans[] = {
    /* name            steps burst body far async repeat cancel move sleep flaky away clock clean kill power refuse forget harm segment round */
    { "delay-plain",       10,  3,  200,  0,    0,    30,    0,    0,    50,     0,    0,     0,     0,    0,     0,      0,      0,    0,  LARGE,     0 },
    { "delay-flaky",       12,  3,  200,  0,   20,    20,    20,   20,    60,    40,   20,     0,     0,    0,     0,      0,      0,    0,  LARGE, 16384 },
    { "delay-cancel",      12,  4,  200, 30,   20,    10,    80,   10,    50,    20,    0,     0,     0,    0,     0,      0,      0,    0,  LARGE, 16384 },
    { "delay-move",        12,  3,  200, 30,    0,    20,    10,   80,    50,    20,    0,     0,     0,    0,     0,      0,      0,    0,  LARGE, 16384 },
    { "delay-away",        12,  3,  200, 10,    0,    10,    10,   10,    80,    10,   50,     0,     0,    0,     0,      0,      0,    0,  LARGE,     0 },
    { "delay-clock",       12,  3,  200, 20,    0,    10,    10,   10,    60,    10,    0,    50,     0,   10,    10,      0,      0,    0,  LARGE,     0 },
    { "delay-rolls",       16,  4, 3000, 10,   30,    40,    20,   20,    80,    10,    0,     0,     0,    0,     0,      0,      0,    0,  SMALL, 16384 },
    { "delay-carries",     16,  4, 3000, 40,    0,    40,    10,   10,    90,    10,    0,     0,     0,    0,     0,      0,      0,    0,  SMALL,  8192 },
    { "delay-clean",       12,  3, 1000, 20,   20,    30,    10,   10,    60,    20,   10,     0,    40,    0,     0,      0,      0,   50,  SMALL, 16384 },
    { "delay-kill",        12,  3, 1000, 20,   20,    40,    20,   20,    60,    20,   10,     0,     0,   40,     0,      0,      0,   20,  SMALL, 16384 },
    { "delay-power",       12,  3, 1000, 20,   20,    40,    20,   20,    60,    20,   10,     0,     0,    0,    40,      0,      0,   20,  SMALL, 16384 },
    { "delay-everything",  16,  4, 2000, 20,   20,    30,    20,   20,    60,    20,   10,     5,    10,   15,    15,      5,      3,   50,  SMALL,  8192 },
    { "delay-refused",     14,  4,  600, 10,   20,    10,    20,   20,    70,    20,   10,     0,     5,   10,    10,     15,      0,    0,  SMALL, 16384 },
    { "delay-forgotten",   14,  3,  600, 10,   20,    10,    10,   10,    70,    30,   10,     0,     5,   10,    10,      0,     20,    0,  SMALL, 16384 },
    { "delay-schedules",   20,  3,  900, 40,   10,    30,    20,   60,    60,    10,   20,     0,    50,   10,    10,      0,      0,   50,  SMALL,  8192 },
};
/* clang-format on */

static struct history *
delay_run(const void *context, uint64_t seed, struct simdisk *disk, struct verdict *verdict)
{
    const struct delay_plan *plan = context;
    struct delay_history *history = delay_history_new(delay_work(0).kind, plan);
    struct delay_client client;
    delay_client_init(&client, history, seed, disk, verdict);
    bool good = delay_client_open(&client);
    for (unsigned i = 0; good && i < plan->steps; i++)
        good = delay_client_step(&client);
    if (good) good = delay_client_finish(&client);
    delay_client_fini(&client);
    return &history->history;
}

static struct history *
delay_cut(const struct history *history, uint64_t at, bool kill)
{
    const struct delay_history *whole = q_container_of(history, struct delay_history, history);
    return &delay_history_cut(whole, at, kill)->history;
}

/* A start after the crash, a little more work, and then every message must be where it belongs. */
static void
delay_check(struct history *history, uint64_t seed, struct simdisk *disk, struct verdict *verdict)
{
    struct delay_client client;
    delay_client_init(
        &client, q_container_of(history, struct delay_history, history), seed, disk, verdict);
    bool good = delay_client_open(&client);
    for (unsigned i = random_below(&client.random, 3); good && i > 0; i--)
        good = delay_client_step(&client);
    if (good) good = delay_client_finish(&client);
    delay_client_fini(&client);
}

static void
delay_free(struct history *history)
{
    delay_history_free(q_container_of(history, struct delay_history, history));
}

struct work
delay_work(unsigned number)
{
    static const struct work_kind kind = {
        .run = delay_run,
        .cut = delay_cut,
        .check = delay_check,
        .free = delay_free,
    };
    if (number >= sizeof(plans) / sizeof(plans[0])) return (struct work){ 0 };
    return (struct work){ plans[number].name, &kind, &plans[number] };
}
