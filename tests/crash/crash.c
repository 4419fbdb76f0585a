/*
 * crash: run workloads on a simulated disk, crash it at every moment in every way, recover, check.
 *
 *   crash --images N [--seed S]        N images, spread evenly over all that there are
 *   crash --only NAME:MOMENT:RULE      one of them again, as a failure printed it
 *
 * Ends with `images N  lost 0  phantom 0  failed 0  (seed S)`; exit 1 when one of them is not 0.
 *
 * From each image's own run (recovery, and what came after it) another image is taken, and from
 * every other one of those one more, and so on: crashes inside recovery.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/opts.h>

#include "random.h"
#include "work.h"

enum {
    WORKS_MAX = 128,
    HANG_S = 60,
    PLAIN_RULES = 8
};

/* What is being tried, for whoever has to print it: a failure, or a signal. */
static char trying[512];

static struct {
    struct work works[WORKS_MAX];
    unsigned work_count;
    uint64_t seed; /* of this round */
    uint64_t images_max;
    uint64_t images;
    uint64_t inside; /* of these, taken from the run of another image */
    uint64_t counts[VERDICT_KINDS];
    uint64_t failures;
    uint64_t failures_max; /* with so many it ends */
} run;

/* A workload that has run. */
struct recorded {
    const struct work *work;
    struct simdisk *disk;
    struct history *history;
};

static uint64_t
mix(uint64_t a, uint64_t b)
{
    struct random_source random = { .state = a ^ b * UINT64_C(0x9E3779B97F4A7C15) };
    return random_u64(&random);
}

static void
add_verdict(const struct verdict *verdict)
{
    if (verdict_is_good(verdict)) return;
    for (unsigned i = 0; i < VERDICT_KINDS; i++)
        run.counts[i] += verdict->counts[i];
    if (run.failures >= run.failures_max) return;
    if (++run.failures == run.failures_max) run.images_max = run.images;
    (void)printf("%s\n    %s\n", verdict->text, trying);
}

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

static struct recorded
record(const struct work *work)
{
    uint64_t seed = run.seed;
    for (const char *at = work->name; *at != '\0'; at++)
        seed = mix(seed, (uint64_t)*at);
    struct recorded recorded = {
        .work = work,
        .disk = simdisk_new(media_new(), mix(seed, 1)),
    };
    struct verdict verdict = { 0 };
    (void)snprintf(
        trying, sizeof(trying), "--seed %llu --only %s:0:0 (while it runs)",
        (unsigned long long)run.seed, work->name);
    (void)alarm(HANG_S);
    recorded.history = work->kind->run(work->plan, seed, recorded.disk, &verdict);
    add_verdict(&verdict);
    return recorded;
}

static void
recorded_free(struct recorded *recorded)
{
    recorded->work->kind->free(recorded->history);
    simdisk_free(recorded->disk);
}

/* The image, by rule `number`, of a crash at this moment; and images of its own run. */
static void
image(const struct recorded *from, const struct media *media, uint64_t moment, unsigned number)
{
    const struct work *work = from->work;
    uint64_t seed = mix(mix(run.seed, moment), number);
    struct crash_rule rule = media_rule(media, number, seed);
    char text[32];
    size_t used = strlen(trying);
    (void)snprintf(
        trying + used, sizeof(trying) - used, " > moment %llu %s", (unsigned long long)moment,
        crash_rule_text(&rule, text, sizeof(text)));
    (void)alarm(HANG_S);

    struct media *crashed = media_clone(media);
    media_crash(crashed, &rule, true);
    struct recorded next = {
        .work = work,
        .disk = simdisk_new(crashed, mix(seed, 2)),
        .history = work->kind->cut(from->history, moment, crash_is_kill(&rule)),
    };
    struct verdict verdict = { 0 };
    work->kind->check(next.history, mix(seed, 3), next.disk, &verdict);
    run.images++;
    add_verdict(&verdict);

    bool deeper = used < sizeof(trying) / 2 &&
                  (strchr(trying + 1, '>') == trying + used + 1 || mix(seed, 4) % 2 == 0);
    if (deeper && verdict_is_good(&verdict) && run.images < run.images_max) {
        run.inside++;
        uint64_t inside = mix(seed, 5) % (simdisk_now(next.disk) + 1);
        struct media *at = simdisk_media_at(next.disk, inside);
        unsigned count = media_rule_count(at);
        /* Torn writes are many: every other time, one of the plain rules that come first. */
        if (mix(seed, 7) % 2 == 0 && count > PLAIN_RULES) count = PLAIN_RULES;
        image(&next, at, inside, (unsigned)(mix(seed, 6) % count));
        media_free(at);
    }
    trying[used] = '\0';
    recorded_free(&next);
}

static void
image_of_work(
    const struct recorded *recorded, const struct media *media, uint64_t moment, unsigned number)
{
    (void)snprintf(
        trying, sizeof(trying), "--seed %llu --only %s:%llu:%u", (unsigned long long)run.seed,
        recorded->work->name, (unsigned long long)moment, number);
    image(recorded, media, moment, number);
}

static uint64_t
count_images(const struct work *work)
{
    struct recorded recorded = record(work);
    struct media *media = simdisk_media_at(recorded.disk, 0);
    uint64_t count = media_rule_count(media);
    for (uint64_t i = 0; i < simdisk_now(recorded.disk); i++) {
        simdisk_media_step(recorded.disk, media);
        count += media_rule_count(media);
    }
    media_free(media);
    recorded_free(&recorded);
    return count;
}

/* Of `total` images, numbered through all workloads from `*at` on, those that are wanted. */
static void
run_images(const struct work *work, uint64_t total, uint64_t wanted, uint64_t *at)
{
    struct recorded recorded = record(work);
    struct media *media = simdisk_media_at(recorded.disk, 0);
    uint64_t phase = mix(run.seed, 7) % total;
    for (uint64_t moment = 0;; moment++) {
        unsigned count = media_rule_count(media);
        for (unsigned i = 0; i < count && run.images < run.images_max; i++, (*at)++) {
            uint64_t before = (*at * wanted + phase) / total;
            if ((*at * wanted + wanted + phase) / total != before)
                image_of_work(&recorded, media, moment, i);
        }
        if (moment == simdisk_now(recorded.disk)) break;
        simdisk_media_step(recorded.disk, media);
    }
    media_free(media);
    recorded_free(&recorded);
}

static void
round_of_all(void)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < run.work_count; i++)
        total += count_images(&run.works[i]);
    /* Each image brings about two others with it. */
    uint64_t wanted = (run.images_max - run.images) / 3 + 1;
    if (wanted > total) wanted = total;
    uint64_t at = 0;
    for (unsigned i = 0; i < run.work_count; i++)
        run_images(&run.works[i], total, wanted, &at);
    (void)printf(
        "seed %llu: %u workloads, %llu images to choose from\n", (unsigned long long)run.seed,
        run.work_count, (unsigned long long)total);
}

static int
run_only(const char *only)
{
    char name[64];
    unsigned long long moment;
    unsigned number;
    if (sscanf(only, "%63[^:]:%llu:%u", name, &moment, &number) != 3) return 2;
    for (unsigned i = 0; i < run.work_count; i++) {
        if (strcmp(run.works[i].name, name) != 0) continue;
        struct recorded recorded = record(&run.works[i]);
        if (moment <= simdisk_now(recorded.disk)) {
            struct media *media = simdisk_media_at(recorded.disk, moment);
            if (number < media_rule_count(media)) image_of_work(&recorded, media, moment, number);
            media_free(media);
        }
        recorded_free(&recorded);
        return 0;
    }
    return 2;
}

static void
collect_works(void)
{
    for (unsigned i = 0; log_work(i).name != NULL; i++)
        run.works[run.work_count++] = log_work(i);
    for (unsigned i = 0; store_work(i).name != NULL; i++)
        run.works[run.work_count++] = store_work(i);
    for (unsigned i = 0; delay_work(i).name != NULL; i++)
        run.works[run.work_count++] = delay_work(i);
    Q_ASSERT(run.work_count <= WORKS_MAX);
}

int
main(int argc, char **argv)
{
    uint64_t seed = 1;
    const char *only = NULL;
    run.images_max = 20000;
    run.failures_max = 5;
    const struct q_opt options[] = {
        { "images", 0, Q_OPT_NUMBER, &run.images_max, "N", "how many images", 1, 0 },
        { "seed", 0, Q_OPT_NUMBER, &seed, "S", "of everything that is random", 0, 0 },
        { "failures", 0, Q_OPT_NUMBER, &run.failures_max, "N", "end with so many", 1, 0 },
        { "only", 0, Q_OPT_TEXT, &only, "NAME:MOMENT:RULE", "one image, as a failure named it", 0,
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
    collect_works();
    run.seed = seed;
    if (only != NULL && run_only(only) != 0) {
        (void)fprintf(stderr, "crash: there is no workload of that name in --only %s\n", only);
        return 2;
    }
    for (; only == NULL && run.images < run.images_max; run.seed++)
        round_of_all();
    (void)printf("inside the run of another image: %llu\n", (unsigned long long)run.inside);
    (void)printf(
        "images %llu  lost %llu  phantom %llu  failed %llu  (seed %llu)\n",
        (unsigned long long)run.images, (unsigned long long)run.counts[VERDICT_LOST],
        (unsigned long long)run.counts[VERDICT_PHANTOM],
        (unsigned long long)(run.counts[VERDICT_FAILED] + run.counts[VERDICT_HUNG]),
        (unsigned long long)seed);
    return run.failures == 0 ? 0 : 1;
}
