/*
 * bench_compare.c: the figures of an earlier run, as its `-o json` told them.
 *
 * What is read is one flat object of our own making: a name is looked up as `"NAME":`, and nothing else of
 * JSON is understood.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum {
    OLD_BYTES_MAX = 64 * 1024
};

static bool read_file(struct bench_output *output);
static const char *find_value(const struct bench_output *output, const char *name);

bool
bench_open_output(
    const struct command *command,
    const char *format,
    const char *bench,
    const char *compare,
    struct bench_output *ret_output)
{
    *ret_output = (struct bench_output){ .old_path = compare };
    if (!bench_format(command, format, &ret_output->is_json)) return false;
    if (!compare) return true;
    if (!read_file(ret_output)) {
        (void)usage_error(
            command, "--compare '%s': not a file of at most %d bytes that can be read", compare,
            OLD_BYTES_MAX);
        return false;
    }
    char wanted[32];
    (void)snprintf(wanted, sizeof(wanted), "\"%s\"", bench);
    const char *value = find_value(ret_output, "bench");
    if (value && strncmp(value, wanted, strlen(wanted)) == 0) return true;
    (void)usage_error(
        command, "--compare '%s': not what `qmq bench %s -o json` prints", compare, bench);
    bench_close_output(ret_output);
    return false;
}

void
bench_close_output(struct bench_output *output)
{
    free(output->old);
    output->old = NULL;
}

static bool
read_file(struct bench_output *output)
{
    FILE *file = fopen(output->old_path, "r");
    output->old = calloc(1, OLD_BYTES_MAX + 1);
    bool is_read = file && output->old;
    if (is_read) {
        size_t size = fread(output->old, 1, OLD_BYTES_MAX + 1, file);
        is_read = !ferror(file) && size <= OLD_BYTES_MAX;
        output->old[is_read ? size : 0] = '\0';
    }
    if (file) (void)fclose(file);
    if (!is_read) bench_close_output(output);
    return is_read;
}

bool
bench_old_figure(const struct bench_output *output, const char *name, double *ret_value)
{
    const char *value = output->old ? find_value(output, name) : NULL;
    char *end;
    if (!value) return false;
    *ret_value = strtod(value, &end);
    return end != value;
}

static const char *
find_value(const struct bench_output *output, const char *name)
{
    char key[64];
    (void)snprintf(key, sizeof(key), "\"%s\":", name);
    const char *at = strstr(output->old, key);
    return at ? at + strlen(key) : NULL;
}
