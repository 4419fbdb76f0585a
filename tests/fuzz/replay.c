/*
 * replay.c: run a fuzz target over files that are kept, without a fuzzer.
 *
 * Arguments are files and directories. The inputs that once were interesting stay tests this way,
 * with any compiler.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <qbase/assert.h>

/* NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned replay_directory(const char *path);
static unsigned replay_file(const char *path);
static void fail(const char *path);

int
main(int argc, char **argv)
{
    unsigned count = 0;
    for (int i = 1; i < argc; i++) {
        struct stat status;
        if (stat(argv[i], &status) != 0) fail(argv[i]);
        count += S_ISDIR(status.st_mode) ? replay_directory(argv[i]) : replay_file(argv[i]);
    }
    /* No input is no test: a wrong path must not look like success. */
    if (count == 0) {
        (void)fprintf(stderr, "no inputs\n");
        return EXIT_FAILURE;
    }
    printf("%u inputs\n", count);
    return EXIT_SUCCESS;
}

static unsigned
replay_directory(const char *path)
{
    struct dirent **entries = NULL;
    int entry_count = scandir(path, &entries, NULL, alphasort);
    if (entry_count < 0) fail(path);
    unsigned count = 0;
    for (int i = 0; i < entry_count; i++) {
        if (entries[i]->d_name[0] != '.')
            count += replay_file(q_text("%s/%s", path, entries[i]->d_name));
        free(entries[i]);
    }
    free(entries);
    return count;
}

static unsigned
replay_file(const char *path)
{
    FILE *file = fopen(path, "rbe");
    struct stat status;
    if (file == NULL || fstat(fileno(file), &status) != 0) fail(path);
    /* Exactly as large as the input, so that AddressSanitizer sees its end. */
    size_t size = (size_t)status.st_size;
    uint8_t *data = malloc(size > 0 ? size : 1);
    Q_ASSERT(data != NULL);
    if (fread(data, 1, size, file) != size) fail(path);
    (void)fclose(file);
    (void)LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

static void
fail(const char *path)
{
    perror(path);
    exit(EXIT_FAILURE);
}
