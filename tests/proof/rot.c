/*
 * rot: damage directories of which everything is known, one fault each, and see what is said.
 *
 *   rot --faults N [--seed S]          N faults
 *   rot --seed S --only N              fault N again, with all that is said about it
 *
 * Ends with `faults N  undetected 0  misclassified 0  failed 0  (seed S)`; exit 1 when one of the
 * three is not 0.
 *
 *   undetected      something wrong was given to a reader, or something is missing and nobody said so
 *   misclassified   rot that was called a torn tail, a torn tail that was called rot, whose mark is
 *                   not named, or damage that was told where there is none
 *   failed          what was not hit is gone, or it does not start, stop or go on as it should
 *
 * Before it, how many faults met what. A directory that refuses to be opened counts as detected, if
 * the error names path, cause and remedy; each way to refuse is listed with its count.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/opts.h>

#include "fault.h"
#include "format/record.h"
#include "label.h"
#include "segment/home.h"
#include "store/store.h"

enum {
    HANG_S = 60,
    LABELS = 16,
    FAULTS_OF_LABEL = 40, /* then others are made */
    REFUSALS_MAX = 64,
};

enum sum {
    SUM_ROT,
    SUM_TORN,
    SUM_BLANK,
    SUM_PADDING,
    SUM_PAYLOAD,
    SUM_SPARE,
    SUM_REFUSED,
    SUMS
};

static const char *const sum_texts[SUMS] = {
    "rot, told",
    "torn tail, told",
    "cut like never written: above the mark, and nothing left of it",
    "padding alone: no content was hit, nothing told",
    "payload alone: refused by its hash",
    "no frame was hit",
    "refused to open",
};

struct refusal {
    char text[256];
    uint64_t count;
};

static struct {
    uint64_t seed;
    uint64_t faults;
    uint64_t undetected;
    uint64_t misclassified;
    uint64_t failed;
    uint64_t reused; /* sequences given again after rot took a log's end */
    uint64_t sums[SUMS];
    struct refusal refusals[REFUSALS_MAX];
    unsigned refusal_count;
    uint64_t shown;
    uint64_t show;
    bool talk;
    struct label labels[LABELS];
    struct ramdisk *disk;
    char trying[256]; /* for whoever has to print it: a finding, or a signal */
    bool found;       /* something about this fault */
} run;

static void rot_one(struct label *label, struct random_source *random);

static uint64_t
mix(uint64_t a, uint64_t b)
{
    struct random_source random = { .state = a ^ b * UINT64_C(0x9E3779B97F4A7C15) };
    return random_u64(&random);
}

static void Q_PRINTF(2, 3) complain(uint64_t *counter, const char *format, ...)
{
    /* One fault counts once. */
    if (run.found) return;
    run.found = true;
    (*counter)++;
    if (++run.shown > run.show) return;
    va_list args;
    va_start(args, format);
    (void)vprintf(format, args);
    va_end(args);
    (void)printf("\n    %s\n", run.trying);
}

static void
on_signal(int number)
{
    const char *what = number == SIGALRM ? "hangs\n    " : "the program crashed\n    ";
    ssize_t rv = write(STDOUT_FILENO, what, strlen(what));
    rv += write(STDOUT_FILENO, run.trying, strlen(run.trying));
    rv += write(STDOUT_FILENO, "\n", 1);
    _exit(rv > 0 ? 1 : 2);
}

/* --- What a reader of the directory finds, without opening it to write. */

struct reading {
    const struct label *label;
    uint64_t next;    /* record number */
    uint8_t *records; /* enum got, by record number */
    uint64_t wrong;
    struct told told[TOLD_MAX]; /* ranges of rot */
    unsigned told_count;
};

static enum q_err
reading_on_frame(void *context, const struct ql_scan *scan)
{
    struct reading *reading = context;
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    struct ql_record record;
    while (ql_record_next(&walk, &record) == Q_OK) {
        struct q_bytes bytes;
        if (record.kind != QL_RECORD_BYTES) continue;
        uint64_t key = 0;
        if (ql_bytes_record_decode(record.bytes, &bytes) == Q_OK) key = content_key(bytes);
        const struct truth *truth = &reading->label->truth;
        uint64_t number = reading->next;
        while (number < truth->record_count && truth->records[number] != key)
            number++;
        if (key == 0 || number == truth->record_count) {
            reading->wrong++;
            continue;
        }
        reading->records[number] = GOT_RIGHT;
        reading->next = number + 1;
    }
    return Q_OK;
}

static void
reading_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    struct reading *reading = context;
    (void)state;
    if (reading->told_count == TOLD_MAX) return;
    struct told *told = &reading->told[reading->told_count++];
    *told = (struct told){ .kind = QLOG_EVENT_ROT, .position = from, .bytes = to - from };
}

/* Each frame of a log that must be told lies in a range of `told`. */
static bool
rot_is_told(const struct frame *frame, const char *log, const struct told *told, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (told[i].kind != QLOG_EVENT_ROT || strcmp(told[i].log, log) != 0) continue;
        uint64_t end = told[i].position + told[i].bytes;
        if (told[i].position <= frame->header.position && frame->header.position < end) return true;
    }
    return false;
}

/* Of a head that was dropped: the one superblock copy that is left may not know. */
static bool
rot_is_below(const struct labelled_log *log, const struct told *told)
{
    return log->frame_count > 0 && told->position + told->bytes <= log->frames[0].header.position;
}

static bool
frame_is_noticed(const struct frame *frame, bool deep)
{
    return frame->hit == HIT_FATAL || (frame->hit == HIT_PAYLOAD && deep);
}

static const char *
explain(const char *text)
{
    char fault[Q_FAULT_LINE_MAX];
    return q_text("%s: %s", text, q_fault_format(q_fault_last(), fault, sizeof(fault)));
}

/* Read log `index` as `qlog verify --deep` does. */
static void
rot_read(struct label *label, const struct image *image, unsigned index)
{
    static uint8_t records[RECORDS_MAX];
    const struct labelled_log *log = &label->logs[index];
    struct verdict_of_log verdict = label_judge(label, image, index, true);
    memset(records, GOT_NOTHING, sizeof(records));

    struct ql_home *home;
    enum q_err err = ql_home_open_to_read(user_directory, ramdisk_io(run.disk), &home);
    if (err != Q_OK) {
        /* The store will say so, too, and better. */
        return;
    }
    struct reading reading = { .label = label, .records = records };
    struct ql_recover recover;
    ql_home_recover_init(home, index, &recover);
    recover.deep = true;
    recover.context = &reading;
    recover.on_frame = reading_on_frame;
    recover.on_rot = reading_on_rot;
    err = ql_recover(&recover);
    (void)ql_home_close(home);
    if (err != Q_OK) {
        complain(&run.failed, "%s", explain("a reader fails"));
        return;
    }
    if (reading.wrong > 0)
        complain(&run.undetected, "a reader of the %s log got a wrong record", log->name);
    for (unsigned i = 0; i < log->frame_count; i++) {
        const struct frame *frame = &log->frames[i];
        bool noticed = frame_is_noticed(frame, true);
        bool below = frame->header.position < verdict.mark;
        if (i < verdict.cut && noticed && below &&
            !rot_is_told(frame, "", reading.told, reading.told_count))
            complain(
                &run.undetected, "a reader of the %s log was not told of rot at %llu", log->name,
                (unsigned long long)frame->header.position);
        for (unsigned j = 0; j < frame->item_count && !label->store; j++) {
            bool got = records[frame->items[j].first] != GOT_NOTHING;
            if (got == (i < verdict.cut && !noticed)) continue;
            complain(
                got ? &run.undetected : &run.failed, "a reader of the %s log %s the record at %llu",
                log->name, got ? "got" : "did not get", (unsigned long long)frame->header.position);
        }
    }
    for (unsigned i = 0; i < reading.told_count; i++)
        if (!verdict.rot && !rot_is_below(log, &reading.told[i]))
            complain(
                &run.misclassified, "a reader of the %s log was told of rot at %llu", log->name,
                (unsigned long long)reading.told[i].position);
    bool may = verdict.torn || verdict.beyond;
    bool must = verdict.torn && !verdict.blank;
    if (recover.torn_bytes > 0 ? !may : must)
        complain(
            &run.misclassified, "a reader of the %s log was %stold of a torn tail", log->name,
            recover.torn_bytes > 0 ? "" : "not ");
}

/* --- What recovery says. */

/* A torn tail is cut where it has to be, and its text names the mark. That may be newer than frames tell:
 * what an index file stands for, and a segment that another one follows, is durable to its end. */
static void
rot_check_torn(
    const struct labelled_log *log, const struct verdict_of_log *verdict, const struct told *told)
{
    bool cut = verdict->cut < log->frame_count;
    uint64_t at = cut ? log->frames[verdict->cut].header.position : log->end;
    unsigned long long mark = UINT64_MAX;
    const char *named = strstr(told->text, "durable mark ");
    if (named != NULL) (void)sscanf(named, "durable mark %llu,", &mark);
    /* Behind a whole log orphans may know marks of their own. */
    if (told->position != at || (cut && (mark < verdict->mark || mark > at)))
        complain(
            &run.misclassified, "a torn tail at %llu behind the mark %llu is told at %llu: %s",
            (unsigned long long)at, (unsigned long long)verdict->mark,
            (unsigned long long)told->position, told->text);
}

static void
rot_check_told(
    const struct label *label,
    unsigned index,
    const struct verdict_of_log *verdict,
    const struct user *user)
{
    const struct labelled_log *log = &label->logs[index];
    const struct told *told = user->told;
    unsigned count = user->told_count;
    /* What a start does not read of the action log it needs not. A reader of the log is told. */
    uint64_t read_from = label->store && index == QL_LOG_ACTION ? user->store->replayed_actions : 0;
    bool torn = false;
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(told[i].log, log->name) != 0) continue;
        bool of_log = strcmp(told[i].path, user_directory) == 0; /* not of a segment's header */
        if (told[i].kind == QLOG_EVENT_TORN_TAIL) {
            torn = true;
            rot_check_torn(log, verdict, &told[i]);
        } else if (
            told[i].kind == QLOG_EVENT_ROT && of_log && !verdict->rot &&
            !rot_is_below(log, &told[i]))
        {
            complain(&run.misclassified, "rot of the %s log is told: %s", log->name, told[i].text);
        }
    }
    for (unsigned i = 0; i < verdict->cut && i < log->frame_count; i++) {
        const struct frame *frame = &log->frames[i];
        if (!frame_is_noticed(frame, false) || frame->header.position < read_from) continue;
        if (!rot_is_told(frame, log->name, told, count))
            complain(
                torn ? &run.misclassified : &run.undetected,
                "rot of the %s log at %llu is not told", log->name,
                (unsigned long long)frame->header.position);
    }
    bool may = verdict->torn || verdict->beyond;
    bool must = verdict->torn && !verdict->blank;
    if (torn ? !may : must)
        complain(
            &run.misclassified, "a torn tail of the %s log is %s", log->name,
            torn ? "told, and there is none" : "not told");
}

/* An error must say where, what and what to do. */
static void
rot_refused(const struct label *label, enum q_err err)
{
    const struct q_fault *fault = q_fault_last();
    bool remedy = fault->hint[0] != '\0' || q_err_hint(err)[0] != '\0';
    if (err != Q_E_CORRUPT || fault->path[0] == '\0' || fault->what[0] == '\0' || !remedy)
        complain(
            &run.failed, "%s",
            explain(q_text("%s without path, cause or remedy", q_err_name(err))));
    run.sums[SUM_REFUSED]++;
    char text[256];
    size_t used = 0;
    /* Numbers differ from fault to fault. */
    for (const char *at = fault->what; *at != '\0' && used < sizeof(text) - 1; at++) {
        bool digit = *at >= '0' && *at <= '9';
        if (digit && used > 0 && text[used - 1] == '#') continue;
        text[used++] = digit ? '#' : *at;
    }
    text[used] = '\0';
    for (unsigned i = 0; i < REFUSALS_MAX; i++) {
        struct refusal *refusal = &run.refusals[i];
        if (i == run.refusal_count) {
            run.refusal_count++;
            (void)snprintf(refusal->text, sizeof(refusal->text), "%s", text);
        }
        if (strcmp(refusal->text, text) != 0) continue;
        refusal->count++;
        break;
    }
    if (run.talk) (void)printf("%s: %s\n", label->name, explain("refused"));
}

/* --- Use after the fault. */

/* What a reader of a store got, held against what was hit. */
static void
rot_check_messages(
    const struct label *label,
    const struct verdict_of_log *verdict,
    const struct delivered *delivered,
    const struct truth *truth)
{
    static uint8_t expected[SUBJECTS][SEQUENCES_MAX];
    const struct labelled_log *log = &label->logs[0];
    memset(expected, GOT_NOTHING, sizeof(expected));
    for (unsigned i = 0; i < verdict->cut && i < log->frame_count; i++) {
        const struct frame *frame = &log->frames[i];
        for (unsigned j = 0; j < frame->item_count; j++) {
            const struct item *item = &frame->items[j];
            enum got got = frame->hit == HIT_FATAL     ? GOT_NOTHING
                           : frame->hit == HIT_PAYLOAD ? GOT_REFUSED
                                                       : GOT_RIGHT;
            memset(expected[label->subjects[item->subject]] + item->first, got, item->count);
        }
    }
    /* What was published since. */
    for (unsigned i = 0; i < SUBJECTS; i++)
        for (uint32_t j = 0; j < truth->ends[i]; j++)
            if (truth->keys[i][j] != label->truth.keys[i][j]) expected[i][j] = GOT_RIGHT;
    if (delivered->wrong > 0) complain(&run.undetected, "a wrong message was delivered");
    for (unsigned i = 0; i < SUBJECTS; i++) {
        for (uint32_t j = 0; j < truth->ends[i]; j++) {
            enum got want = expected[i][j];
            enum got got = delivered->messages[i][j];
            if (got == want) continue;
            /* A start that did not read the frame looks at it before it hands it out. */
            if (want == GOT_REFUSED && got == GOT_NOTHING) continue;
            complain(
                got == GOT_NOTHING ? &run.failed : &run.undetected,
                "message %u of subject %u: %d where %d is expected", j, i, (int)got, (int)want);
        }
    }
}

static void
rot_use_store(struct label *label, struct user *user, const struct verdict_of_log *verdict)
{
    static struct delivered first;
    static struct delivered second;
    struct truth *truth = user->truth;
    enum q_err err = user_read_all(user, "after", &first);
    if (err != Q_OK) {
        complain(&run.failed, "%s", explain("reading the store"));
        return;
    }
    rot_check_messages(label, verdict, &first, truth);
    uint32_t before[SUBJECTS];
    memcpy(before, truth->ends, sizeof(before));
    for (unsigned i = 0; i < SUBJECTS && err == Q_OK; i++)
        err = user_publish(user, i, QLOG_MODE_SYNC);
    if (err == Q_OK) err = user_close(user);
    if (err == Q_OK) err = user_open(user, true);
    if (err == Q_OK) err = user_read_all(user, "again", &second);
    if (err != Q_OK) {
        complain(&run.failed, "%s", explain("going on after it"));
        return;
    }
    rot_check_messages(label, verdict, &second, truth);
    for (unsigned i = 0; i < SUBJECTS; i++) {
        bool reused = false;
        for (uint32_t j = 0; j < before[i]; j++)
            reused = reused ||
                     (truth->keys[i][j] != label->truth.keys[i][j] && label->truth.keys[i][j] != 0);
        if (reused && verdict->rot) run.reused++;
    }
    for (unsigned i = 0; i < user->told_count; i++)
        if (user->told[i].kind == QLOG_EVENT_TORN_TAIL)
            complain(&run.misclassified, "after a clean stop: %s", user->told[i].text);
}

static void
rot_use_log(struct user *user)
{
    enum q_err err = Q_OK;
    for (unsigned i = 0; i < 3 && err == Q_OK; i++)
        err = user_append(user, QLOG_MODE_SYNC);
    if (err == Q_OK) err = user_close(user);
    if (err == Q_OK) err = user_open(user, false);
    if (err != Q_OK) complain(&run.failed, "%s", explain("going on after it"));
}

/* The records of a log that was used after the fault: what was not hit, then the new ones. */
static void
rot_read_again(struct label *label, const struct truth *truth, const struct verdict_of_log *verdict)
{
    static uint8_t records[RECORDS_MAX];
    memset(records, GOT_NOTHING, sizeof(records));
    struct label now = { .truth = *truth };
    struct reading reading = { .label = &now, .records = records };
    struct ql_home *home;
    enum q_err err = ql_home_open_to_read(user_directory, ramdisk_io(run.disk), &home);
    if (err == Q_OK) {
        struct ql_recover recover;
        ql_home_recover_init(home, 0, &recover);
        recover.deep = true;
        recover.context = &reading;
        recover.on_frame = reading_on_frame;
        err = ql_recover(&recover);
        (void)ql_home_close(home);
    }
    if (err != Q_OK) complain(&run.failed, "%s", explain("reading it again"));
    if (reading.wrong > 0) complain(&run.undetected, "a wrong record was read");
    const struct labelled_log *log = &label->logs[0];
    for (unsigned i = 0; i < log->frame_count; i++) {
        for (unsigned j = 0; j < log->frames[i].item_count; j++) {
            bool want = i < verdict->cut && !frame_is_noticed(&log->frames[i], true);
            if (want && records[log->frames[i].items[j].first] == GOT_NOTHING)
                complain(&run.failed, "a record is gone after the next start");
        }
    }
    for (uint32_t i = label->truth.record_count; i < truth->record_count; i++)
        if (records[i] == GOT_NOTHING) complain(&run.failed, "a new record is gone");
}

/* --- One fault. */

static void
talk_hits(const struct label *label, const struct verdict_of_log *verdicts)
{
    static const char *const hits[] = { "", "padding", "payload", "header or records" };
    for (unsigned i = 0; i < label->log_count; i++) {
        const struct labelled_log *log = &label->logs[i];
        (void)printf(
            "%s log: %u frames, end %llu, mark %llu\n", log->name, log->frame_count,
            (unsigned long long)log->end, (unsigned long long)verdicts[i].mark);
        for (unsigned j = 0; j < log->frame_count; j++)
            if (log->frames[j].hit != HIT_NOT)
                (void)printf(
                    "hit: %s of the frame at %llu, to %llu\n", hits[log->frames[j].hit],
                    (unsigned long long)log->frames[j].header.position,
                    (unsigned long long)log->frames[j].end);
    }
}

static void
rot_count(const struct label *label, const struct verdict_of_log *verdicts)
{
    enum sum sum = SUM_SPARE;
    for (unsigned i = 0; i < label->log_count; i++) {
        const struct labelled_log *log = &label->logs[i];
        if (verdicts[i].rot) {
            sum = SUM_ROT;
        } else if (verdicts[i].torn) {
            sum = verdicts[i].blank ? SUM_BLANK : SUM_TORN;
        } else if (verdicts[i].first_hit < log->frame_count) {
            sum = SUM_PAYLOAD;
        }
        for (unsigned j = 0; j < log->frame_count && sum == SUM_SPARE; j++)
            if (log->frames[j].hit == HIT_PADDING) sum = SUM_PADDING;
    }
    run.sums[sum]++;
}

static void
rot_one(struct label *label, struct random_source *random)
{
    static struct truth truth;
    struct image image;
    struct verdict_of_log verdicts[LOGS_MAX];
    size_t used = strlen(run.trying);
    fault_make(label, random, &image, run.trying + used, sizeof(run.trying) - used);
    ramdisk_load(run.disk, &image);
    for (unsigned i = 0; i < label->log_count; i++)
        rot_read(label, &image, i);
    bool whole = true;
    for (unsigned i = 0; i < label->log_count; i++) {
        verdicts[i] = label_judge(label, &image, i, false);
        whole = whole && !verdicts[i].rot && !verdicts[i].torn;
    }
    image_free(&image);

    if (run.talk) talk_hits(label, verdicts);
    truth = label->truth;
    struct user user;
    user_init(&user, run.disk, &truth, random_u64(random));
    user.clock.wall_ms += Q_MS_PER_S * 3600;
    enum q_err err = user_open(&user, label->store);
    if (run.talk)
        for (unsigned i = 0; i < user.told_count; i++)
            (void)printf(
                "told: %s %s %llu+%llu: %s\n", qlog_event_name(user.told[i].kind), user.told[i].log,
                (unsigned long long)user.told[i].position, (unsigned long long)user.told[i].bytes,
                user.told[i].text);
    if (err != Q_OK) {
        rot_refused(label, err);
        return;
    }
    rot_count(label, verdicts);
    for (unsigned i = 0; i < label->log_count; i++)
        rot_check_told(label, i, &verdicts[i], &user);
    if (label->store) {
        const struct ql_home *home = user.store->home;
        if (whole && home->env.generation == label->generation &&
            ql_store_state_hash(user.store) != label->state_hash)
            complain(&run.undetected, "nothing was hit, and the state is another");
        rot_use_store(label, &user, &verdicts[0]);
    } else {
        rot_use_log(&user);
    }
    if (user.store != NULL || user.log != NULL) {
        err = user_close(&user);
        if (err != Q_OK) complain(&run.failed, "%s", explain("closing it"));
    }
    if (!label->store) rot_read_again(label, &truth, &verdicts[0]);
}

/* A round's directories: of both programs, of each kind, stopped in both ways. */
static void
make_labels(uint64_t round)
{
    for (unsigned i = 0; i < LABELS; i++)
        label_make(
            &run.labels[i], i % 4 < 2, i % 2 == 0, (enum label_kind)(i / 4),
            mix(mix(run.seed, round), i));
}

static void
run_fault(uint64_t number)
{
    static uint64_t round = UINT64_MAX;
    uint64_t wanted = number / (LABELS * FAULTS_OF_LABEL);
    (void)snprintf(
        run.trying, sizeof(run.trying), "--seed %llu --only %llu", (unsigned long long)run.seed,
        (unsigned long long)number);
    (void)alarm(HANG_S);
    if (wanted != round) {
        for (unsigned i = 0; i < LABELS; i++)
            label_free(&run.labels[i]);
        round = wanted;
        make_labels(round);
    }
    struct label *label = &run.labels[number % LABELS];
    struct random_source random = { .state = mix(run.seed, number + UINT64_C(0x100000000)) };
    size_t used = strlen(run.trying);
    (void)snprintf(run.trying + used, sizeof(run.trying) - used, ": %s", label->name);
    run.found = false;
    rot_one(label, &random);
    run.faults++;
}

static void
print_sums(void)
{
    for (unsigned i = 0; i < SUMS; i++)
        (void)printf("%8llu  %s\n", (unsigned long long)run.sums[i], sum_texts[i]);
    for (unsigned i = 0; i < run.refusal_count; i++)
        (void)printf(
            "          %8llu  %s\n", (unsigned long long)run.refusals[i].count,
            run.refusals[i].text);
    if (run.reused > 0)
        (void)printf(
            "%8llu  subjects whose sequences were given again, since rot took the log's end\n",
            (unsigned long long)run.reused);
}

int
main(int argc, char **argv)
{
    uint64_t faults = 1000;
    uint64_t only = UINT64_MAX;
    run.seed = 1;
    run.show = 5;
    const struct q_opt options[] = {
        { "faults", 0, Q_OPT_NUMBER, &faults, "N", "how many faults", 1, 0 },
        { "seed", 0, Q_OPT_NUMBER, &run.seed, "S", "of everything that is random", 0, 0 },
        { "show", 0, Q_OPT_NUMBER, &run.show, "N", "how many findings to print", 0, 0 },
        { "only", 0, Q_OPT_NUMBER, &only, "N", "one fault, as a finding named it", 0, 0 },
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
    (void)signal(SIGSEGV, on_signal);
    run.disk = ramdisk_new();
    run.talk = only != UINT64_MAX;
    if (run.talk)
        run_fault(only);
    else
        for (uint64_t i = 0; i < faults; i++)
            run_fault(i);
    for (unsigned i = 0; i < LABELS; i++)
        label_free(&run.labels[i]);
    ramdisk_free(run.disk);
    print_sums();
    (void)printf(
        "faults %llu  undetected %llu  misclassified %llu  failed %llu  (seed %llu)\n",
        (unsigned long long)run.faults, (unsigned long long)run.undetected,
        (unsigned long long)run.misclassified, (unsigned long long)run.failed,
        (unsigned long long)run.seed);
    return run.undetected + run.misclassified + run.failed == 0 ? 0 : 1;
}
