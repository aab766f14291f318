/* Prints the lines of a file that belongs to another package: the resource greetings. */
#include <stdio.h>

int main(void)
{
	char line[256];
	FILE *file = fopen("/greetings/greetings.txt", "r");

	if (!file) {
		perror("/greetings/greetings.txt");
		return 1;
	}
	while (fgets(line, sizeof line, file))
		fputs(line, stdout);
	return fclose(file) ? 1 : 0;
}
