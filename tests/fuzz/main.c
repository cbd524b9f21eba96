/* main.c: replays files through a fuzz target, for compilers without libFuzzer and for the test
 * run: each argument is a file or a directory of files. Fails when there is nothing to replay. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { INPUT_MAX = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned replayed;

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return 1;
    }
    uint8_t *buf = malloc(INPUT_MAX);
    size_t size = buf != NULL ? fread(buf, 1, INPUT_MAX, file) : 0;
    fclose(file);
    /* An exact copy, so that a read past the input's end is seen. */
    uint8_t *exact = malloc(size > 0 ? size : 1);
    if (buf == NULL || exact == NULL) {
        fprintf(stderr, "out of memory\n");
        free(buf);
        free(exact);
        return 1;
    }
    for (size_t i = 0; i < size; i++)
        exact[i] = buf[i];
    free(buf);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    replayed++;
    return 0;
}

static int replay(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        perror(path);
        return 1;
    }
    if (!S_ISDIR(st.st_mode))
        return replay_file(path);
    DIR *dir = opendir(path);
    if (dir == NULL) {
        perror(path);
        return 1;
    }
    int failed = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        failed |= replay_file(name);
    }
    closedir(dir);
    return failed;
}

int main(int argc, char **argv)
{
    int failed = 0;
    for (int i = 1; i < argc; i++)
        failed |= replay(argv[i]);
    printf("%s %u inputs replayed\n", failed || replayed == 0 ? "not ok" : "ok", replayed);
    return failed || replayed == 0;
}
