/*
 * testing.c: the roles of a node without the process around them.
 */
#include <qmq/testing.h>

#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "broker/broker.h"
#include "common/log.h"
#include "meta/meta.h"

enum {
    READY_S = 30,
    SEGMENT_BYTES = 16 * 1024 * 1024, /* several, and the largest message fits */
    MEMORY_BYTES = 128 * 1024 * 1024, /* that a file system in memory has to have free */
    NODE_ID_SIZE = 33,
    URL_SIZE = 80,
    DIRECTORY_SIZE = PATH_MAX - 64,
    FILES_AT_ONCE = 16
};

struct qmq_testing {
    char directory[DIRECTORY_SIZE];
    bool owns_directory;
    char meta_directory[PATH_MAX];
    char broker_directory[PATH_MAX];
    char node_id[NODE_ID_SIZE];
    char meta_url[URL_SIZE];
    char broker_url[URL_SIZE];
    char one_way_url[URL_SIZE];
    struct meta *meta;
    struct broker *broker;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ready;
    struct q_fault failed; /* the first */
};

static enum q_err start(struct qmq_testing *testing, const struct qmq_testing_options *options);
static enum q_err choose_directory(struct qmq_testing *testing, const char *wanted);
static enum q_err make_directory(const char *path);
static void choose_names(struct qmq_testing *testing);
static enum q_err start_broker(struct qmq_testing *testing);
static void on_ready(void *context);
static void on_failed(void *context, const struct q_fault *fault);
static enum q_err wait_ready(struct qmq_testing *testing);
static void note_failure(struct qmq_testing *testing, const struct q_fault *fault);
static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *place);

int
qmq_testing_start(const struct qmq_testing_options *options, struct qmq_testing **ret_testing)
{
    static const struct qmq_testing_options defaults;
    struct qmq_testing *testing = calloc(1, sizeof(*testing));
    if (testing == NULL) return Q_FAIL(Q_E_NOMEM);
    (void)pthread_mutex_init(&testing->lock, NULL);
    (void)pthread_cond_init(&testing->changed, NULL);
    enum q_err err = start(testing, options == NULL ? &defaults : options);
    if (err != Q_OK) {
        note_failure(testing, q_fault_last());
        return qmq_testing_stop(testing);
    }
    *ret_testing = testing;
    return QMQ_OK;
}

static enum q_err
start(struct qmq_testing *testing, const struct qmq_testing_options *options)
{
    srv_log_set_level(options->verbose ? SRV_INFO : SRV_ERROR);
    Q_TRY(choose_directory(testing, options->directory));
    choose_names(testing);
    Q_TRY(make_directory(testing->meta_directory));
    const struct meta_options meta = {
        .directory = testing->meta_directory,
        .url = testing->meta_url,
        .clock = q_clock_system(),
        .program = "libqmq-testing",
        .node_id = testing->node_id,
        .roles = "meta,broker",
    };
    Q_TRY(meta_start(&meta, &testing->meta));
    return start_broker(testing);
}

static enum q_err
choose_directory(struct qmq_testing *testing, const char *wanted)
{
    if (wanted != NULL) {
        int size = snprintf(testing->directory, sizeof(testing->directory), "%s", wanted);
        if (size <= 0 || size >= DIRECTORY_SIZE)
            return Q_FAIL(Q_INVALID, .what = "the directory's path is empty or too long");
        return make_directory(testing->directory);
    }
    struct statvfs memory;
    bool in_memory = statvfs("/dev/shm", &memory) == 0 && access("/dev/shm", W_OK | X_OK) == 0 &&
                     (uint64_t)memory.f_bavail * memory.f_frsize >= MEMORY_BYTES;
    const char *other = getenv("TMPDIR");
    if (other == NULL || *other == '\0') other = "/tmp";
    int size = snprintf(
        testing->directory, sizeof(testing->directory), "%s/qmq-testing-XXXXXX",
        in_memory ? "/dev/shm" : other);
    if (size >= DIRECTORY_SIZE)
        return Q_FAIL(Q_INVALID, .path = other, .what = "TMPDIR is too long");
    if (mkdtemp(testing->directory) == NULL)
        return Q_FAIL(
            q_err_from_errno(errno), .path = testing->directory, .sys = errno,
            .what = "create a temporary directory");
    testing->owns_directory = true;
    return Q_OK;
}

static enum q_err
make_directory(const char *path)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST) return Q_OK;
    return Q_FAIL(
        q_err_from_errno(errno), .path = path, .sys = errno, .what = "create a directory");
}

static void
choose_names(struct qmq_testing *testing)
{
    static atomic_uint started;
    unsigned number = atomic_fetch_add(&started, 1);
    (void)snprintf(testing->meta_directory, PATH_MAX, "%s/meta", testing->directory);
    (void)snprintf(testing->broker_directory, PATH_MAX, "%s/broker", testing->directory);
    (void)snprintf(
        testing->meta_url, sizeof(testing->meta_url), "inproc://qmq-testing-%u/meta", number);
    (void)snprintf(
        testing->broker_url, sizeof(testing->broker_url), "inproc://qmq-testing-%u/broker", number);
    (void)snprintf(
        testing->one_way_url, sizeof(testing->one_way_url), "inproc://qmq-testing-%u/one-way",
        number);
    /* Meta knows a broker group by it: the same for a directory that is kept. */
    (void)snprintf(testing->node_id, sizeof(testing->node_id), "%032x", 1);
}

static enum q_err
start_broker(struct qmq_testing *testing)
{
    testing->ready = false;
    const struct broker_options options = {
        .directory = testing->broker_directory,
        .url = testing->broker_url,
        .one_way_url = testing->one_way_url,
        .meta_url = testing->meta_url,
        .node_id = testing->node_id,
        .cluster = "testing",
        .broker_group = "testing",
        .program = "libqmq-testing",
        .version = QMQ_VERSION,
        .roles = "meta,broker",
        .store = {
            .log = { .create = true, .segment_bytes = SEGMENT_BYTES },
            /* A full disk is met by the logs, not by levels that are meant for large ones. */
            .disk_soft_bytes = 1,
            .disk_hard_bytes = 1,
        },
        .context = testing,
        .on_ready = on_ready,
        .on_failed = on_failed,
    };
    Q_TRY(broker_start(&options, &testing->broker));
    return wait_ready(testing);
}

static void
on_ready(void *context)
{
    struct qmq_testing *testing = context;
    (void)pthread_mutex_lock(&testing->lock);
    testing->ready = true;
    (void)pthread_cond_broadcast(&testing->changed);
    (void)pthread_mutex_unlock(&testing->lock);
}

static void
on_failed(void *context, const struct q_fault *fault)
{
    note_failure(context, fault);
}

static void
note_failure(struct qmq_testing *testing, const struct q_fault *fault)
{
    (void)pthread_mutex_lock(&testing->lock);
    if (testing->failed.err == Q_OK) testing->failed = *fault;
    (void)pthread_cond_broadcast(&testing->changed);
    (void)pthread_mutex_unlock(&testing->lock);
}

static enum q_err
wait_ready(struct qmq_testing *testing)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += READY_S;
    int rv = 0;
    (void)pthread_mutex_lock(&testing->lock);
    while (!testing->ready && testing->failed.err == Q_OK && rv == 0)
        rv = pthread_cond_timedwait(&testing->changed, &testing->lock, &until);
    bool ready = testing->ready;
    struct q_fault fault = testing->failed;
    (void)pthread_mutex_unlock(&testing->lock);
    if (ready) return Q_OK;
    if (fault.err == Q_OK)
        return Q_FAIL(Q_TIMED_OUT, .what = "the broker did not register in time");
    q_fault_adopt(&fault);
    return fault.err;
}

const char *
qmq_testing_meta(const struct qmq_testing *testing)
{
    return testing->meta_url;
}

int
qmq_testing_restart(struct qmq_testing *testing)
{
    enum q_err err = broker_stop(testing->broker);
    testing->broker = NULL;
    if (err == Q_OK) err = start_broker(testing);
    if (err != Q_OK) note_failure(testing, q_fault_last());
    return err;
}

int
qmq_testing_stop(struct qmq_testing *testing)
{
    if (testing == NULL) return QMQ_OK;
    if (testing->broker != NULL && broker_stop(testing->broker) != Q_OK)
        note_failure(testing, q_fault_last());
    if (testing->meta != NULL) meta_stop(testing->meta);
    if (testing->owns_directory)
        (void)nftw(testing->directory, remove_one, FILES_AT_ONCE, FTW_DEPTH | FTW_PHYS);
    struct q_fault fault = testing->failed;
    (void)pthread_mutex_destroy(&testing->lock);
    (void)pthread_cond_destroy(&testing->changed);
    free(testing);
    if (fault.err != Q_OK) q_fault_adopt(&fault);
    return fault.err;
}

static int
remove_one(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about;
    (void)kind;
    (void)place;
    /* What can't be removed stays: a test has better things to fail for. */
    (void)remove(path);
    return 0;
}

struct qmq_error
qmq_testing_last_error(void)
{
    static _Thread_local char message[Q_FAULT_LINE_MAX];
    const struct q_fault *fault = q_fault_last();
    return (struct qmq_error){
        .code = fault->err,
        .name = q_err_name(fault->err),
        .message = q_fault_format(fault, message, sizeof(message)),
        .hint = fault->hint[0] != '\0' ? fault->hint : q_err_hint(fault->err),
        .retryable = q_err_retryable(fault->err),
    };
}
