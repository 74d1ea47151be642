/* A stand-in for the NVIDIA driver's libnvidia-ml.so.1, with only the calls qlaunch makes.
 *
 * It answers from the text file named by QLAUNCH_TEST_NVML, which is read again for every call, so
 * that a test can change the machine while the program runs. One entry a line, fields by `|`:
 *
 *   driver|580.95.05
 *   cuda|13000
 *   card|NAME|UUID|MAJOR|MINOR|TOTAL_BYTES|USED_BYTES|MIG      MIG: -1 not supported, 0 off, 1 on
 *   mig|CARD|PLACE|UUID|NAME|TOTAL_BYTES|USED_BYTES            CARD: index of the card
 *   process|CARD|PID|BYTES                                     BYTES: -1 not available
 *   mig_process|CARD|PLACE|PID|BYTES
 *   fail|CALL|CODE                                             this call returns CODE
 *   fail_card|CARD|CALL|CODE                                   … for this card; CALL `*`: all
 *   fail_whole|CARD|CALL|CODE                                 … but not for its MIG slices
 *   lose_after|N                                               after N device calls: GPU is lost
 *   hang|CALL|SECONDS                                          this call takes that long
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CARDS 16
#define PLACES 7
#define PROCESSES 64

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7,
       NOT_LOADED = 9, LOST = 15 };

typedef struct { unsigned pid; unsigned long long bytes; } Process;
typedef struct {
    char name[96], uuid[96];
    int present, major, minor, mig, card, place, processes;
    unsigned long long total, used;
    Process process[PROCESSES];
} Device;

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} ProcessInfo;

static Device cards[CARDS], slices[CARDS][PLACES];
static int card_count, cuda, initialised, device_calls, lose_after, asked_slice;
static char driver[81];

static int card_failure(const char *call, int card, int index, const char *name, int code) {
    return index == card && (!strcmp(name, "*") || !strcmp(name, call)) ? code : OK;
}

static void add_process(Device *device, unsigned pid, long long bytes) {
    if (device->processes < PROCESSES) {
        Process row = {pid, (unsigned long long)bytes};
        device->process[device->processes++] = row;
    }
}

static int one_line(const char *line, const char *call, int card) {
    char text[128] = "", uuid[128] = "";
    int index, place, code, major, minor, mig;
    unsigned pid;
    unsigned long long total, used;
    long long bytes;
    if (sscanf(line, "driver|%80[^\n]", driver) == 1) return OK;
    if (sscanf(line, "cuda|%d", &cuda) == 1) return OK;
    if (sscanf(line, "lose_after|%d", &lose_after) == 1) return OK;
    if (sscanf(line, "card|%95[^|]|%95[^|]|%d|%d|%llu|%llu|%d", text, uuid, &major, &minor, &total,
               &used, &mig) == 7 && card_count < CARDS) {
        Device *device = &cards[card_count];
        *device = (Device){.present = 1, .major = major, .minor = minor, .mig = mig,
                           .card = card_count, .place = -1, .total = total, .used = used};
        strcpy(device->name, text);
        strcpy(device->uuid, uuid);
        card_count++;
    } else if (sscanf(line, "mig|%d|%d|%95[^|]|%95[^|]|%llu|%llu", &index, &place, uuid, text,
                      &total, &used) == 6 && index < CARDS && place < PLACES) {
        Device *device = &slices[index][place];
        *device = (Device){.present = 1, .major = cards[index].major, .minor = cards[index].minor,
                           .card = index, .place = place, .total = total, .used = used};
        strcpy(device->name, text);
        strcpy(device->uuid, uuid);
    } else if (sscanf(line, "process|%d|%u|%lld", &index, &pid, &bytes) == 3 && index < CARDS) {
        add_process(&cards[index], pid, bytes);
    } else if (sscanf(line, "mig_process|%d|%d|%u|%lld", &index, &place, &pid, &bytes) == 4 &&
               index < CARDS && place < PLACES) {
        add_process(&slices[index][place], pid, bytes);
    } else if (sscanf(line, "fail|%127[^|]|%d", text, &code) == 2) {
        return strcmp(text, call) ? OK : code;
    } else if (sscanf(line, "fail_card|%d|%127[^|]|%d", &index, text, &code) == 3) {
        return card_failure(call, card, index, text, code);
    } else if (sscanf(line, "fail_whole|%d|%127[^|]|%d", &index, text, &code) == 3) {
        return asked_slice ? OK : card_failure(call, card, index, text, code);
    } else if (sscanf(line, "hang|%127[^|]|%d", text, &code) == 2 && !strcmp(text, call)) {
        sleep(code);
    }
    return OK;
}

/* Read the script and return the code it orders for this call (card: -1 where there is none). */
static int order(const char *call, int card) {
    const char *path = getenv("QLAUNCH_TEST_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    int result = OK;
    if (!file) return NOT_LOADED;
    card_count = cuda = 0;
    lose_after = -1;
    memset(cards, 0, sizeof cards);
    memset(slices, 0, sizeof slices);
    while (fgets(line, sizeof line, file)) {
        int code = one_line(line, call, card);
        if (code != OK) result = code;
    }
    fclose(file);
    if (result != OK) return result;
    if (!initialised && strcmp(call, "nvmlInitWithFlags")) return UNINITIALIZED;
    if (card >= 0 && lose_after >= 0 && device_calls++ >= lose_after) return LOST;
    return OK;
}

/* A handle is card * 100 + place + 2, so that a card is N01 and its slices N02 to N08. */
static int card_of(void *handle) { return (int)((size_t)handle / 100); }

static Device *device_of(void *handle) {
    int card = card_of(handle), place = (int)((size_t)handle % 100) - 2;
    Device *device = place < 0 ? &cards[card] : &slices[card][place];
    return device->present ? device : NULL;
}

#define DEVICE(call)                                   \
    asked_slice = (size_t)handle % 100 > 1;            \
    int code = order(call, card_of(handle));           \
    Device *device = device_of(handle);                \
    if (code != OK) return code;                       \
    if (!device) return NOT_FOUND

int nvmlInitWithFlags(unsigned flags) {
    int code = order("nvmlInitWithFlags", -1);
    (void)flags;
    if (code == OK) initialised = 1;
    return code;
}

int nvmlShutdown(void) {
    initialised = 0;
    return OK;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "an error of the stand-in";
}

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    int code = order("nvmlSystemGetDriverVersion", -1);
    if (code == OK) snprintf(text, length, "%s", driver);
    return code;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    int code = order("nvmlSystemGetCudaDriverVersion_v2", -1);
    if (code == OK) *version = cuda;
    return code;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int code = order("nvmlDeviceGetCount_v2", -1);
    if (code == OK) *count = (unsigned)card_count;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    int code = order("nvmlDeviceGetHandleByIndex_v2", (int)index);
    if (code != OK) return code;
    if (index >= (unsigned)card_count) return INVALID;
    *handle = (void *)(size_t)(index * 100 + 1);
    return OK;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned length) {
    DEVICE("nvmlDeviceGetName");
    snprintf(text, length, "%s", device->name);
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) {
    DEVICE("nvmlDeviceGetUUID");
    snprintf(text, length, "%s", device->uuid);
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    DEVICE("nvmlDeviceGetCudaComputeCapability");
    *major = device->major;
    *minor = device->minor;
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    DEVICE("nvmlDeviceGetMemoryInfo");
    memory->total = device->total;
    memory->used = device->used;
    memory->free = device->total - device->used;
    return OK;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    DEVICE("nvmlDeviceGetMigMode");
    if (device->mig < 0) return UNSUPPORTED;
    *current = *pending = (unsigned)device->mig;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    DEVICE("nvmlDeviceGetMaxMigDeviceCount");
    *count = device->mig < 0 ? 0 : PLACES;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **slice) {
    DEVICE("nvmlDeviceGetMigDeviceHandleByIndex");
    if (index >= PLACES || !slices[device->card][index].present) return NOT_FOUND;
    *slice = (void *)((size_t)device->card * 100 + index + 2);
    return OK;
}

static int running(Device *device, unsigned *count, ProcessInfo *rows) {
    unsigned room = *count;
    *count = (unsigned)device->processes;
    if (device->processes == 0) return OK;
    if (!rows || room < *count) return TOO_SMALL;
    for (unsigned i = 0; i < *count; i++)
        rows[i] = (ProcessInfo){device->process[i].pid, device->process[i].bytes, ~0u, ~0u};
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *rows) {
    DEVICE("nvmlDeviceGetComputeRunningProcesses_v3");
    return running(device, count, rows);
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, ProcessInfo *rows) {
    DEVICE("nvmlDeviceGetComputeRunningProcesses_v2");
    return running(device, count, rows);
}
