/*
 * delay-model: random use of a delay store, held against a list of all messages.
 *
 *   delay-model [--sequences N] [--seed S] [--only NAME]
 *
 * Each sequence is a workload of delay_work.c with a seed of its own, longer than in `crash`: publishes,
 * cancels, moves, brokers that fail and go away, kills, power losses and steps of the wall clock. In the
 * end everything that was acknowledged has been delivered once, nothing early, nothing that was
 * cancelled. Ends with `sequences N  lost 0  phantom 0  failed 0  (seed S)`; exit 1 when one is not 0.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <qbase/opts.h>

#include "delay_client.h"

enum {
    HANG_S = 120,
    LONGER = 6
};

static char trying[128];

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

int
main(int argc, char **argv)
{
    uint64_t sequences = 1000;
    uint64_t seed = 1;
    uint64_t failures_max = 5;
    const char *only = NULL;
    const struct q_opt options[] = {
        { "sequences", 0, Q_OPT_NUMBER, &sequences, "N", "how many", 1, 0 },
        { "seed", 0, Q_OPT_NUMBER, &seed, "S", "of everything that is random", 0, 0 },
        { "failures", 0, Q_OPT_NUMBER, &failures_max, "N", "end with so many", 1, 0 },
        { "only", 0, Q_OPT_TEXT, &only, "NAME", "one workload", 0, 0 },
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
    unsigned works = 0;
    while (delay_work(works).name != NULL)
        works++;
    struct verdict all = { 0 };
    uint64_t failures = 0;
    for (uint64_t i = 0; i < sequences; i++) {
        struct work work = delay_work((unsigned)(i % works));
        if (only != NULL && strcmp(only, work.name) != 0) continue;
        struct delay_plan plan = *(const struct delay_plan *)work.plan;
        plan.steps *= LONGER;
        struct random_source mix = { .state = seed + i * UINT64_C(0x9E3779B97F4A7C15) };
        struct verdict verdict = { 0 };
        struct simdisk *disk = simdisk_new(media_new(), random_u64(&mix));
        (void)snprintf(
            trying, sizeof(trying), "--seed %llu --sequences %llu: sequence %llu, %s",
            (unsigned long long)seed, (unsigned long long)sequences, (unsigned long long)i,
            work.name);
        (void)alarm(HANG_S);
        struct history *history = work.kind->run(&plan, random_u64(&mix), disk, &verdict);
        work.kind->free(history);
        simdisk_free(disk);
        for (unsigned j = 0; j < VERDICT_KINDS; j++)
            all.counts[j] += verdict.counts[j];
        if (verdict_is_good(&verdict)) continue;
        (void)printf("%s\n    %s\n", verdict.text, trying);
        if (++failures == failures_max) sequences = i + 1;
    }
    (void)printf(
        "sequences %llu  lost %llu  phantom %llu  failed %llu  (seed %llu)\n",
        (unsigned long long)sequences, (unsigned long long)all.counts[VERDICT_LOST],
        (unsigned long long)all.counts[VERDICT_PHANTOM],
        (unsigned long long)(all.counts[VERDICT_FAILED] + all.counts[VERDICT_HUNG]),
        (unsigned long long)seed);
    return failures == 0 ? 0 : 1;
}
