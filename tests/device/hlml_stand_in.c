/* libhlml.so for tests: two boards with the numbers below, and any function failing as a file tells.
 *
 * The file named by G3RT_HLML_STATE has lines "function code [times]"; code is what the function returns. Calls of
 * hlml_init and hlml_shutdown are appended to the file with ".log" after its name. Declarations are our own, after
 * what pyhlml passes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *handle;
struct memory { unsigned long long free, total, used; };
struct utilization { unsigned aip, memory; };
struct pci_info { unsigned bus; char bus_id[19]; unsigned device, domain, pci_device_id; char caps[40]; unsigned rev, sub; };

static int initialized;
static int boards[2] = {0, 1};

static int code_of(const char *function) {
  const char *path = getenv("G3RT_HLML_STATE");
  FILE *file = path ? fopen(path, "r") : NULL;
  char name[128];
  int code, found = 0;
  if (!file) return 0;
  while (fscanf(file, "%127s %d", name, &code) == 2)
    if (!strcmp(name, function)) found = code;
  fclose(file);
  return found;
}

static void log_call(const char *function) {
  char path[1024];
  snprintf(path, sizeof path, "%s.log", getenv("G3RT_HLML_STATE"));
  FILE *file = fopen(path, "a");
  if (file) { fprintf(file, "%s\n", function); fclose(file); }
}

#define CHECK                             \
  do {                                    \
    int code = code_of(__func__);         \
    if (code) return code;                \
    if (!initialized) return 1;           \
  } while (0)

static int number_of(handle board) { return *(int *)board; }
static int text(char *to, unsigned length, const char *from) { return snprintf(to, length, "%s", from) < 0; }

int hlml_init(void) {
  log_call("hlml_init");
  int code = code_of("hlml_init");
  if (!code) initialized = 1;
  return code;
}
int hlml_shutdown(void) { log_call("hlml_shutdown"); initialized = 0; return code_of("hlml_shutdown"); }
int hlml_device_get_count(unsigned *count) { CHECK; *count = 2; return 0; }
int hlml_device_get_handle_by_index(unsigned index, handle *board) { CHECK; *board = &boards[index]; return 0; }
int hlml_device_get_module_id(handle board, unsigned *id) { CHECK; *id = number_of(board) ? 2 : 6; return 0; }
int hlml_device_get_name(handle board, char *name, unsigned n) { CHECK; (void)board; return text(name, n, "HL-325L "); }
int hlml_device_get_serial(handle board, char *to, unsigned n) { CHECK; return text(to, n, number_of(board) ? "B" : "A"); }
int hlml_device_get_uuid(handle board, char *to, unsigned n) { CHECK; return text(to, n, number_of(board) ? "01P4-B" : "01P4-A"); }
int hlml_get_driver_version(char *to, unsigned n) { CHECK; return text(to, n, "1.22.1-97ec1a4"); }
int hlml_get_fw_os_version(handle board, char *to, unsigned n) { CHECK; (void)board; return text(to, n, "hl-1.22.1-fw-60.1"); }
int hlml_device_get_pci_info(handle board, struct pci_info *info) {
  CHECK;
  memset(info, 0, sizeof *info);
  return text(info->bus_id, sizeof info->bus_id, number_of(board) ? "0000:b3:00.0" : "0000:33:00.0");
}
int hlml_device_get_memory_info(handle board, struct memory *memory) {
  CHECK;
  memory->total = 128ull << 30;
  memory->used = (672ull << 20) * (number_of(board) + 1);
  memory->free = memory->total - memory->used;
  return 0;
}
int hlml_device_get_utilization_rates(handle board, struct utilization *rates) {
  CHECK;
  rates->aip = number_of(board) ? 75 : 0;
  rates->memory = 99;
  return 0;
}
int hlml_device_get_temperature(handle board, int sensor, unsigned *celsius) { CHECK; (void)board; *celsius = 36 + 10 * sensor; return 0; }
int hlml_device_get_power_usage(handle board, unsigned *milliwatts) { CHECK; *milliwatts = number_of(board) ? 850500 : 226000; return 0; }
int hlml_device_get_total_energy_consumption(handle board, unsigned long long *millijoules) {
  CHECK;
  (void)board;
  *millijoules = 5000000000500ull;
  return 0;
}
int hlml_device_get_clock_info(handle board, unsigned clock, unsigned *megahertz) { CHECK; *megahertz = (number_of(board) ? 1600 : 450) + 7 * clock; return 0; }
int hlml_device_get_total_ecc_errors(handle board, int error, int counter, long long *count) {
  CHECK;
  *count = number_of(board) ? 100 + 10 * error + counter : 0;
  return 0;
}
