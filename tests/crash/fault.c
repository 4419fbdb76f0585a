/*
 * fault: let every call to the disk fail once, in every way, and every allocation of an open.
 *
 *   fault [--seed S] [--per-site N] [--work NAME]
 *   fault --only NAME:SITE:KIND:NUMBER     one of them again, as a failure printed it
 *
 * For each workload, kind of call and kind of error: the first call of that kind fails, then the
 * second, and so on, until the workload ends without having met the fault. Whatever happens, it
 * must be told, nothing may hang, a failed write or flush of a log must be final, and on a disk that
 * is well again all that was acknowledged must be there.
 *
 * Ends with `faults N  wrong 0  hangs 0  (seed S)`; exit 1 when one of them is not 0.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/opts.h>
#include <qlog/log.h>

#include "faults.h"
#include "random.h"
#include "work.h"

enum {
    HANG_S = 60
};

static char trying[256];

static struct {
    uint64_t seed;
    uint64_t per_site; /* faults of one site and kind in one workload, at most */
    uint64_t faults;
    uint64_t wrong;
    uint64_t hangs;
    uint64_t failures;
    uint64_t show; /* at most so many */
} run;

/* Short ones that reach everything: first start, rolls, clean and unclean starts, all requests. */
static const char *const names[] = {
    "log-mixed",       "log-rolls",  "log-clean-rolls", "log-kill-rolls",   "store-consume",
    "store-both-roll", "store-trim", "store-kill",      "store-everything",
};

static void
on_signal(int number)
{
    static const char hang[] = "hangs\n    ";
    static const char crash[] = "the program crashed\n    ";
    ssize_t rv = number == SIGALRM ? write(STDOUT_FILENO, hang, sizeof(hang) - 1)
                                   : write(STDOUT_FILENO, crash, sizeof(crash) - 1);
    rv += write(STDOUT_FILENO, trying, strlen(trying));
    rv += write(STDOUT_FILENO, "\n", 1);
    _exit(rv > 0 ? 1 : 2);
}

static void
add_verdict(const struct verdict *verdict)
{
    if (verdict_is_good(verdict)) return;
    if (verdict->counts[VERDICT_HUNG] > 0)
        run.hangs++;
    else
        run.wrong++;
    if (++run.failures > run.show) return;
    (void)printf("%s\n    %s\n", verdict->text, trying);
}

static struct work
find_work(const char *name)
{
    for (unsigned i = 0; log_work(i).name != NULL; i++)
        if (strcmp(log_work(i).name, name) == 0) return log_work(i);
    for (unsigned i = 0; store_work(i).name != NULL; i++)
        if (strcmp(store_work(i).name, name) == 0) return store_work(i);
    return (struct work){ 0 };
}

/* What is left, on a disk that is well: after the end of the process, and after power loss. */
static void
check_after(
    const struct work *work,
    const struct history *history,
    const struct simdisk *disk,
    enum crash_kind kind,
    struct verdict *verdict)
{
    struct crash_rule rule = { .kind = kind, .seed = run.seed };
    uint64_t now = simdisk_now(disk);
    struct media *media = simdisk_media_at(disk, now);
    media_crash(media, &rule, true);
    struct simdisk *next = simdisk_new(media, run.seed + 1);
    struct history *cut = work->kind->cut(history, now, crash_is_kill(&rule));
    work->kind->check(cut, run.seed + 2, next, verdict);
    work->kind->free(cut);
    simdisk_free(next);
}

/* One fault. False: the workload ended without it. */
static bool
try_fault(const struct work *work, const struct fault_plan *plan)
{
    (void)snprintf(
        trying, sizeof(trying), "--seed %llu --only %s:%s:%s:%llu", (unsigned long long)run.seed,
        work->name, fault_site_text(plan->site), fault_kind_text(plan->kind),
        (unsigned long long)plan->number);
    (void)alarm(HANG_S);
    struct simdisk *disk = simdisk_new(media_new(), run.seed);
    struct faults faults;
    faults_init(&faults, simdisk_raw_io(disk), plan);
    simdisk_set_front(disk, &faults.front);
    struct verdict verdict = { 0 };
    struct history *history = work->kind->run(work->plan, run.seed, disk, &verdict);
    bool fired = faults.front.fired;
    simdisk_set_front(disk, NULL);
    if (fired) {
        run.faults++;
        check_after(work, history, disk, CRASH_KILL_NONE, &verdict);
        check_after(work, history, disk, CRASH_NONE, &verdict);
    }
    add_verdict(&verdict);
    work->kind->free(history);
    simdisk_free(disk);
    return fired;
}

static void
try_work(const struct work *work)
{
    for (unsigned site = 0; site < FAULT_SITES; site++) {
        for (unsigned kind = 0; kind < FAULT_KINDS; kind++) {
            struct fault_plan plan = { (enum fault_site)site, (enum fault_kind)kind, 0 };
            if (!fault_makes_sense(plan.site, plan.kind)) continue;
            do
                plan.number++;
            while (plan.number <= run.per_site && try_fault(work, &plan));
        }
    }
}

static int
try_only(const char *only)
{
    char name[64];
    char site[32];
    char kind[32];
    unsigned long long number;
    if (sscanf(only, "%63[^:]:%31[^:]:%31[^:]:%llu", name, site, kind, &number) != 4) return 2;
    struct work work = find_work(name);
    if (work.name == NULL) return 2;
    struct fault_plan plan = { FAULT_SITES, FAULT_KINDS, number };
    for (unsigned i = 0; i < FAULT_SITES; i++)
        if (strcmp(fault_site_text((enum fault_site)i), site) == 0) plan.site = (enum fault_site)i;
    for (unsigned i = 0; i < FAULT_KINDS; i++)
        if (strcmp(fault_kind_text((enum fault_kind)i), kind) == 0) plan.kind = (enum fault_kind)i;
    if (plan.site == FAULT_SITES || plan.kind == FAULT_KINDS) return 2;
    (void)try_fault(&work, &plan);
    return 0;
}

/* --- Memory. */

/* Opening what a workload left, with the N-th allocation failing. False: it did not get so far. */
static bool
try_memory(
    const struct work *work, const struct history *history, struct simdisk *made, uint64_t number)
{
    (void)snprintf(
        trying, sizeof(trying), "--seed %llu, memory: allocation %llu of an open after %s",
        (unsigned long long)run.seed, (unsigned long long)number, work->name);
    (void)alarm(HANG_S);
    uint64_t now = simdisk_now(made);
    struct crash_rule rule = { .kind = CRASH_KILL_NONE };
    struct media *media = simdisk_media_at(made, now);
    media_crash(media, &rule, true);
    struct simdisk *disk = simdisk_new(media, run.seed);
    struct fault_plan never = { .number = 0 };
    struct faults faults;
    faults_init(&faults, simdisk_raw_io(disk), &never);
    struct verdict verdict = { 0 };
    bool fired = false;
    struct q_clock_manual clock;
    q_clock_manual_init(&clock);
    struct qlog_store_options options = {
        .log = {
            .io = &faults.front.io,
            .clock = &clock.clock,
            .segment_bytes = 64 * 1024,
            .frame_bytes_max = 32 * 1024,
        },
    };
    bool is_store = strncmp(work->name, "store", 5) == 0;
    struct qlog_store *store = NULL;
    struct qlog *log = NULL;
    fault_memory_arm(number);
    enum q_err err = is_store ? qlog_store_open("/data", &options, &store)
                              : qlog_open("/data", &options.log, &log);
    (void)fault_memory_disarm(&fired);
    /* Some memory can be done without: a spare, buffers to be had later. */
    if (err != Q_OK && err != Q_E_NOMEM)
        verdict_add(
            &verdict, VERDICT_FAILED, "an open without memory answers %s: %s", q_err_name(err),
            q_fault_last()->what);
    if (err == Q_OK) {
        err = is_store ? qlog_store_close(store) : qlog_close(log);
        if (err != Q_OK)
            verdict_add(&verdict, VERDICT_FAILED, "closing it answers %s", q_err_name(err));
    }
    if (fired) {
        run.faults++;
        struct history *cut = work->kind->cut(history, now, true);
        check_after(work, cut, disk, CRASH_KILL_NONE, &verdict);
        work->kind->free(cut);
    }
    add_verdict(&verdict);
    simdisk_free(disk);
    return fired;
}

static void
try_memory_of(const struct work *work)
{
    struct simdisk *disk = simdisk_new(media_new(), run.seed);
    struct verdict verdict = { 0 };
    struct history *history = work->kind->run(work->plan, run.seed, disk, &verdict);
    for (uint64_t number = 1; try_memory(work, history, disk, number);)
        number++;
    work->kind->free(history);
    simdisk_free(disk);
}

int
main(int argc, char **argv)
{
    const char *only = NULL;
    const char *name = NULL;
    run.seed = 1;
    run.per_site = 60;
    run.show = 5;
    const struct q_opt options[] = {
        { "seed", 0, Q_OPT_NUMBER, &run.seed, "S", "of everything that is random", 0, 0 },
        { "per-site", 0, Q_OPT_NUMBER, &run.per_site, "N",
          "at most so many calls of one kind fail in one workload", 1, 0 },
        { "work", 0, Q_OPT_TEXT, &name, "NAME", "one workload", 0, 0 },
        { "show", 0, Q_OPT_NUMBER, &run.show, "N", "how many failures to print", 0, 0 },
        { "only", 0, Q_OPT_TEXT, &only, "NAME:SITE:KIND:NUMBER", "one, as a failure named it", 0,
          0 },
    };
    struct q_opts_result result;
    enum q_err err =
        q_opts_parse(options, sizeof(options) / sizeof(options[0]), argc, argv, &result);
    if (err != Q_OK || result.help) {
        (void)fprintf(stderr, "%s\n", result.error);
        q_opts_print_help(stderr, options, sizeof(options) / sizeof(options[0]));
        return result.help ? 0 : 2;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)signal(SIGALRM, on_signal);
    (void)signal(SIGABRT, on_signal);
    if (only != NULL && try_only(only) != 0) {
        (void)fprintf(stderr, "fault: there is nothing like --only %s\n", only);
        return 2;
    }
    for (unsigned i = 0; only == NULL && i < sizeof(names) / sizeof(names[0]); i++) {
        struct work work = find_work(names[i]);
        Q_ASSERT(work.name != NULL);
        if (name != NULL && strcmp(name, work.name) != 0) continue;
        try_work(&work);
        try_memory_of(&work);
        (void)printf("%s: %llu faults so far\n", work.name, (unsigned long long)run.faults);
    }
    (void)printf(
        "faults %llu  wrong %llu  hangs %llu  (seed %llu)\n", (unsigned long long)run.faults,
        (unsigned long long)run.wrong, (unsigned long long)run.hangs, (unsigned long long)run.seed);
    return run.failures == 0 && (run.faults > 0 || only != NULL) ? 0 : 1;
}
