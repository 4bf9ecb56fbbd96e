"""Where customers order."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_POST

from orders.models import Order
from orders.tasks import reserve


@require_POST
def create_order(request: HttpRequest) -> JsonResponse:
    """Take an order, and have it reserved when it is committed."""
    order = Order.objects.create(title=request.POST["title"], copies=request.POST.get("copies", 1))
    reserve.delay_on_commit(order.pk)
    return JsonResponse({"id": order.pk}, status=201)
